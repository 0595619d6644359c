//! A Lambda binary alone, without Lambda: its runtime API is the test's.

use crate::s3::S3;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command};

/// A function's process, and the runtime API that feeds it (AWS Lambda Developer Guide, "Using the Lambda runtime API").
#[derive(Debug)]
pub struct Function {
    api: TcpListener,
    process: Child,
}

impl Function {
    /// Starts `name` with this environment, and `s3` as its AWS.
    pub fn start(name: &str, env: &[(&str, &str)], s3: &S3) -> Self {
        let api = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut command = Command::new(crate::binary(name));
        command.envs(s3.env()).envs(env.iter().copied()).env("AWS_LAMBDA_RUNTIME_API", api.local_addr().unwrap().to_string());
        command.envs([("AWS_LAMBDA_FUNCTION_NAME", name), ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")]);
        command.envs([("AWS_LAMBDA_FUNCTION_VERSION", "1"), ("AWS_LAMBDA_LOG_GROUP_NAME", "g"), ("AWS_LAMBDA_LOG_STREAM_NAME", "s")]);
        Self { process: command.spawn().unwrap(), api }
    }

    /// Gives it one event, and returns what it reported: the answer, or the error.
    ///
    /// # Errors
    /// The function's own.
    pub fn invoke(&self, event: &Value) -> Result<Value, Value> {
        self.send(&event.to_string())
    }

    /// The same with an event as text, which need not be JSON that we could make.
    ///
    /// # Errors
    /// The function's own.
    pub fn send(&self, event: &str) -> Result<Value, Value> {
        loop {
            let (stream, _) = self.api.accept().unwrap();
            let mut reader = BufReader::new(stream);
            while let Some((path, body)) = request(&mut reader) {
                if path.ends_with("/invocation/next") {
                    let head = "Lambda-Runtime-Aws-Request-Id: 1\r\nLambda-Runtime-Deadline-Ms: 4102444800000\r\n\
                                Lambda-Runtime-Invoked-Function-Arn: arn:aws:lambda:eu-west-1:000000000000:function:f\r\n";
                    answer(reader.get_mut(), "200 OK", head, event.as_bytes());
                    continue;
                }
                // Or its next request goes to this connection, which ends here.
                answer(reader.get_mut(), "202 Accepted", "Connection: close\r\n", b"{}");
                let body = serde_json::from_slice(&body).unwrap();
                return if path.ends_with("/response") { Ok(body) } else { Err(body) };
            }
        }
    }

    /// The most memory that its process has held so far, KiB.
    pub fn peak_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// The path and body of the next request on a connection.
fn request(reader: &mut BufReader<TcpStream>) -> Option<(String, Vec<u8>)> {
    let (mut path, mut length) = (None, 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap() == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            first if path.is_none() => path = Some(first.split(' ').nth(1).unwrap().to_owned()),
            header => {
                if let Some((_, value)) = header.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("content-length")) {
                    length = value.trim().parse().unwrap();
                }
            }
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    path.map(|path| (path, body))
}

fn answer(stream: &mut TcpStream, status: &str, head: &str, body: &[u8]) {
    write!(stream, "HTTP/1.1 {status}\r\n{head}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len()).unwrap();
    stream.write_all(body).unwrap();
}
