//! Counts what a service answers: a proxy that only looks.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A proxy before a service. Its threads end with the test's process.
#[derive(Debug)]
pub struct Meter {
    url: String,
    bytes: Arc<AtomicU64>,
}

impl Meter {
    /// Before the service at `url`.
    pub fn before(url: &str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let at = listener.local_addr().expect("the meter's address");
        let (upstream, bytes) = (url.trim_start_matches("http://").to_owned(), Arc::new(AtomicU64::new(0)));
        let counted = bytes.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (upstream, counted) = (TcpStream::connect(&upstream).expect("reach the service"), counted.clone());
                let (to_client, to_service) = (client.try_clone().expect("a socket"), upstream.try_clone().expect("a socket"));
                std::thread::spawn(move || pass(client, to_service, None));
                std::thread::spawn(move || pass(upstream, to_client, Some(&counted)));
            }
        });
        Self { url: format!("http://{at}"), bytes }
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Bytes answered since the last reset.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::SeqCst)
    }

    /// Counts from zero.
    pub fn reset(&self) {
        self.bytes.store(0, Ordering::SeqCst);
    }
}

/// Passes bytes on until either side ends; they are counted before they are seen.
fn pass(mut from: TcpStream, mut to: TcpStream, counted: Option<&AtomicU64>) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if let Some(counted) = counted {
            counted.fetch_add(n as u64, Ordering::SeqCst);
        }
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
