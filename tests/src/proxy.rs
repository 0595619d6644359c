//! A proxy before a local S3 that loses, delays, cuts or forges the answers to some requests, as a network or a tired service does.

use crate::S3;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Any of them.
    Any,
    /// Lists keys.
    List,
    /// Asks for an object's facts.
    Head,
    /// Reads an object, or a range of it.
    Get,
    /// Creates an object at once.
    Put,
    /// Begins a multipart upload.
    Begin,
    /// Uploads a part.
    Part,
    /// Completes an upload.
    Complete,
    /// Gives an upload up.
    Abort,
}

impl Call {
    fn of(method: &str, target: &str) -> Self {
        let query = target.split_once('?').map_or("", |(_, query)| query);
        let has = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
        match method {
            "GET" if has("list-type") => Self::List,
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "PUT" if has("partNumber") => Self::Part,
            "PUT" => Self::Put,
            "POST" if has("uploads") => Self::Begin,
            "POST" if has("uploadId") => Self::Complete,
            "DELETE" if has("uploadId") => Self::Abort,
            _ => Self::Any,
        }
    }
}

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is done, and its answer never arrives.
    LoseAnswer,
    /// It is not done: the connection is reset.
    Reset,
    /// It is done, and another answer arrives.
    DoneButAnswer(&'static str),
    /// It is not done, and this answer arrives.
    Answer(&'static str),
    /// Half of the answer's body arrives, then the connection ends.
    Cut,
    /// Half of the answer's body arrives as if it were the whole: what a store that lost the rest would send.
    Short,
    /// A byte in the middle of the answer's body is another.
    Flip,
    /// The answer's body arrives at so many bytes a second.
    Slow(u32),
}

/// The answer that S3 gives with this status, code and message.
macro_rules! answer {
    ($status:literal, $code:literal, $message:literal) => {
        concat!(
            "HTTP/1.1 ",
            $status,
            "\r\ncontent-type: application/xml\r\nconnection: close\r\n\r\n<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>",
            $code,
            "</Code><Message>",
            $message,
            "</Message></Error>"
        )
    };
}

impl Fault {
    /// S3 begins its answer before it has finished, so that an error has to be told inside a 200.
    pub const ERROR_IN_200: &str = answer!("200 OK", "InternalError", "We encountered an internal error. Please try again.");
    /// What a store says of an upload that it has completed already, or is completing (s3s-fs).
    pub const ACCESS_DENIED: &str = answer!("403 Forbidden", "AccessDenied", "Access Denied");
    /// The service is overloaded.
    pub const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    /// A prefix has too many requests.
    pub const SLOW_DOWN: &str = answer!("503 Slow Down", "SlowDown", "Please reduce your request rate.");
    /// A bug on the other side.
    pub const INTERNAL: &str = answer!("500 Internal Server Error", "InternalError", "We encountered an internal error. Please try again.");
    /// The role's session is over.
    pub const EXPIRED: &str = answer!("400 Bad Request", "ExpiredToken", "The provided token has expired.");
    /// The same, to a HEAD, whose answer has no body.
    pub const EXPIRED_HEAD: &str = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n";
    /// The host's clock is wrong.
    pub const SKEWED: &str =
        answer!("403 Forbidden", "RequestTimeTooSkewed", "The difference between the request time and the current time is too large.");
}

/// Which requests a fault meets, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// What they do.
    pub call: Call,
    /// What is in their path: `""` for anything.
    pub path: &'static str,
    /// So many of them pass first.
    pub skip: u32,
    /// So many of them meet it then.
    pub times: u32,
    /// It.
    pub fault: Fault,
}

impl Rule {
    /// The first such request meets a fault.
    pub fn once(call: Call, fault: Fault) -> Self {
        Self { call, path: "", skip: 0, times: 1, fault }
    }

    /// Every one does.
    pub fn always(call: Call, fault: Fault) -> Self {
        Self { times: u32::MAX, ..Self::once(call, fault) }
    }

    /// Only with this in their path.
    #[must_use]
    pub fn at(self, path: &'static str) -> Self {
        Self { path, ..self }
    }
}

/// The proxy; it serves until it is dropped.
#[derive(Debug)]
pub struct Proxy {
    at: SocketAddr,
    rules: Arc<Mutex<Vec<(Rule, u32)>>>,
    ended: Arc<AtomicBool>,
}

impl Proxy {
    /// Before `s3`. A request meets the first rule that has some left for it; one that meets none passes.
    pub fn before(s3: &S3, rules: &[Rule]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let at = listener.local_addr().expect("the proxy's address");
        let upstream: SocketAddr = s3.url().trim_start_matches("http://").parse().expect("the S3's address");
        let rules = rules.iter().map(|rule| (*rule, 0)).collect();
        let proxy = Self { at, rules: Arc::new(Mutex::new(rules)), ended: Arc::default() };
        let (rules, ended) = (proxy.rules.clone(), proxy.ended.clone());
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let rules = rules.clone();
                // A connection that breaks is the client's to notice.
                std::thread::spawn(move || client.and_then(|client| serve(client, upstream, &rules)));
            }
        });
        proxy
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("http://{}", self.at)
    }

    /// How often each rule's fault was met.
    pub fn met(&self) -> Vec<u32> {
        self.rules.lock().expect("the rules' lock").iter().map(|(_, met)| *met).collect()
    }

    /// From now on every request passes.
    pub fn mend(&self) {
        self.rules.lock().expect("the rules' lock").clear();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.at));
    }
}

fn fault_for(rules: &Mutex<Vec<(Rule, u32)>>, call: Call, path: &str) -> Option<Fault> {
    for (rule, met) in rules.lock().expect("the rules' lock").iter_mut() {
        if (rule.call == Call::Any || rule.call == call) && path.contains(rule.path) && *met < rule.times {
            if rule.skip > 0 {
                rule.skip -= 1;
                return None;
            }
            *met += 1;
            return Some(rule.fault);
        }
    }
    None
}

/// The head of the request on a connection, which stays unread: to close a connection with something unread is to reset it.
fn peek_head(client: &TcpStream) -> std::io::Result<Option<String>> {
    let mut seen = vec![0; 64 << 10];
    loop {
        let n = client.peek(&mut seen)?;
        if let Some(end) = seen[..n].windows(4).position(|w| w == b"\r\n\r\n") {
            return Ok(Some(String::from_utf8_lossy(&seen[..end + 4]).into_owned()));
        }
        if n == 0 || n == seen.len() {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// One request on a connection of its own, on either side.
fn serve(mut client: TcpStream, upstream: SocketAddr, rules: &Mutex<Vec<(Rule, u32)>>) -> std::io::Result<()> {
    let Some(head) = peek_head(&client)? else { return Ok(()) };
    let mut words = head.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let fault = fault_for(rules, Call::of(method, target), target);
    if fault == Some(Fault::Reset) {
        return Ok(());
    }
    std::io::copy(&mut (&mut client).take(head.len() as u64), &mut std::io::sink())?;
    let header = |name: &str| head.lines().find_map(|line| line.split_once(':').filter(|(n, _)| n.eq_ignore_ascii_case(name)));
    let body_len = header("content-length").map_or(0, |(_, len)| len.trim().parse().expect("a content length"));
    if header("expect").is_some() {
        client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let mut body = (&mut client).take(body_len);
    if let Some(Fault::Answer(answer)) = fault {
        std::io::copy(&mut body, &mut std::io::sink())?;
        return client.write_all(answer.as_bytes());
    }
    let mut server = TcpStream::connect(upstream)?;
    // Neither header is among the signed ones; with the second an answer ends with its connection.
    let kept: String = head
        .lines()
        .filter(|line| !line.is_empty() && !line.to_ascii_lowercase().starts_with("expect:"))
        .map(|line| format!("{line}\r\n"))
        .collect();
    server.write_all(format!("{kept}connection: close\r\n\r\n").as_bytes())?;
    std::io::copy(&mut body, &mut server)?;
    let Some(fault) = fault else { return std::io::copy(&mut server, &mut client).map(drop) };
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    let at = answer.windows(4).position(|w| w == b"\r\n\r\n").map_or(answer.len(), |end| end + 4);
    let (head, body) = answer.split_at_mut(at);
    match fault {
        Fault::LoseAnswer | Fault::Reset | Fault::Answer(_) => Ok(()),
        Fault::DoneButAnswer(other) => client.write_all(other.as_bytes()),
        Fault::Cut => {
            client.write_all(head)?;
            client.write_all(&body[..body.len() / 2])
        }
        Fault::Short => {
            let half = &body[..body.len() / 2];
            let lines = String::from_utf8_lossy(head);
            let kept = lines.trim_end().lines().filter(|line| !line.to_ascii_lowercase().starts_with("content-length:"));
            let head =
                kept.chain([format!("content-length: {}", half.len()).as_str()]).map(|line| format!("{line}\r\n")).collect::<String>();
            client.write_all(&[head.as_bytes(), b"\r\n", half].concat())
        }
        Fault::Flip => {
            if let Some(byte) = body.len().checked_sub(1).map(|last| last / 2) {
                body[byte] ^= 0x20;
            }
            client.write_all(&answer)
        }
        Fault::Slow(bytes_per_second) => {
            client.write_all(head)?;
            for piece in body.chunks((bytes_per_second / 20).max(1) as usize) {
                client.write_all(piece)?;
                std::thread::sleep(Duration::from_millis(50));
            }
            Ok(())
        }
    }
}
