//! A proxy before a local S3 that loses or forges the answers to some requests, as a network or a tired service does.

use crate::S3;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// What happens to one completion of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It is done, and its answer never arrives.
    LoseAnswer,
    /// It is done, and another answer arrives.
    DoneButAnswer(&'static str),
    /// It is not done, and this answer arrives.
    Answer(&'static str),
}

impl Fault {
    /// S3 begins its answer before it has finished, so that an error has to be told inside a 200.
    pub const ERROR_IN_200: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/xml\r\nconnection: close\r\n\r\n<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>InternalError</Code><Message>We encountered an internal error. Please try again.</Message></Error>";
    /// What a store says of an upload that it has completed already, or is completing (s3s-fs).
    pub const ACCESS_DENIED: &str = "HTTP/1.1 403 Forbidden\r\ncontent-type: application/xml\r\nconnection: close\r\n\r\n<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>";
    /// The service is overloaded.
    pub const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
}

/// The proxy; it serves until it is dropped.
#[derive(Debug)]
pub struct Proxy {
    at: SocketAddr,
    faults: Arc<Mutex<Vec<Fault>>>,
    ended: Arc<AtomicBool>,
}

impl Proxy {
    /// Before `s3`; the first completions of uploads that it sees meet `faults`, in order, the others nothing.
    pub fn before(s3: &S3, faults: &[Fault]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let at = listener.local_addr().expect("the proxy's address");
        let upstream: SocketAddr = s3.url().trim_start_matches("http://").parse().expect("the S3's address");
        let proxy = Self { at, faults: Arc::new(Mutex::new(faults.to_vec())), ended: Arc::default() };
        let (faults, ended) = (proxy.faults.clone(), proxy.ended.clone());
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let faults = faults.clone();
                // A connection that breaks is the client's to notice.
                std::thread::spawn(move || client.and_then(|client| serve(client, upstream, &faults)));
            }
        });
        proxy
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("http://{}", self.at)
    }

    /// Faults that no request met yet.
    pub fn left(&self) -> Vec<Fault> {
        self.faults.lock().expect("the faults' lock").clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.at));
    }
}

/// One request on a connection of its own, on either side.
fn serve(mut client: TcpStream, upstream: SocketAddr, faults: &Mutex<Vec<Fault>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let (mut head, mut body_len) = (String::new(), 0);
    while reader.read_line(&mut head)? > 2 {
        let line = head.lines().last().unwrap_or_default().to_ascii_lowercase();
        if let Some(len) = line.strip_prefix("content-length:") {
            body_len = len.trim().parse().expect("a content length");
        }
    }
    let completes = head.starts_with("POST ") && head.lines().next().is_some_and(|line| line.contains("uploadId="));
    let fault = {
        let mut faults = faults.lock().expect("the faults' lock");
        (completes && !faults.is_empty()).then(|| faults.remove(0))
    };
    let mut body = reader.take(body_len);
    if let Some(Fault::Answer(answer)) = fault {
        std::io::copy(&mut body, &mut std::io::sink())?;
        return client.write_all(answer.as_bytes());
    }
    let mut server = TcpStream::connect(upstream)?;
    // The header is not among the signed ones; with it an answer ends with its connection.
    server.write_all(format!("{}connection: close\r\n\r\n", head.trim_end_matches("\r\n").to_owned() + "\r\n").as_bytes())?;
    std::io::copy(&mut body, &mut server)?;
    match fault {
        None => std::io::copy(&mut server, &mut client).map(drop),
        Some(fault) => {
            std::io::copy(&mut server, &mut std::io::sink())?;
            if let Fault::DoneButAnswer(answer) = fault { client.write_all(answer.as_bytes()) } else { Ok(()) }
        }
    }
}
