//! Local S3 servers. The default keeps versions, checksums and conditions as S3 does, in memory; the other writes to disk and
//! is fast, but keeps neither versions nor checksums nor conditions.

use crate::scratch::Scratch;
use crate::{block_on, tool, wait_for};
use bytes::Bytes;
use highwater_aws::s3::{Bucket, Endpoint};
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Mutex;

/// The region, key and secret of every local S3.
const REGION: &str = "eu-west-1";
const KEY: &str = "test";
/// The bucket that every local S3 starts with.
pub(crate) const BUCKET: &str = "backups";

/// One local S3 with the empty bucket `backups`. Ended when dropped.
#[derive(Debug)]
pub struct S3 {
    scratch: Scratch,
    port: u16,
    kind: Kind,
    server: Mutex<Option<Child>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The local cloud (see tests/local-cloud): conditions, versions, full-object checksums. In memory.
    Faithful,
    /// s3s-fs: files below a directory.
    Disk,
}

impl S3 {
    /// One that behaves as S3 does; the bucket keeps versions.
    pub fn start() -> Self {
        let s3 = Self::spawn(Kind::Faithful);
        let body =
            "<VersioningConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Status>Enabled</Status></VersioningConfiguration>";
        s3.raw("PUT", &format!("/{BUCKET}?versioning"), body.as_bytes());
        s3
    }

    /// A fast one on disk, without checksums, versions and conditions: for volume, and for the ways around what it lacks.
    pub fn start_on_disk() -> Self {
        Self::spawn(Kind::Disk)
    }

    fn spawn(kind: Kind) -> Self {
        let scratch = Scratch::new("s3");
        let mut s3 = Self { scratch, port: 0, kind, server: Mutex::new(None) };
        // The kernel names a free port; should somebody else take it first, the next one is tried.
        let started = (0..3).any(|_| {
            s3.port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr()).expect("a free port").port();
            s3.try_up()
        });
        assert!(started, "the local S3 ended: {}", s3.log());
        block_on(s3.bucket().create()).expect("create the bucket");
        s3
    }

    /// Starts it again after `down`. The faithful one has forgotten everything then.
    pub fn up(&self) {
        assert!(self.try_up(), "the local S3 ended: {}", self.log());
    }

    /// Whether it serves; it has ended otherwise.
    fn try_up(&self) -> bool {
        let log = File::create(self.scratch.join("s3.log")).expect("create the log");
        let port = self.port.to_string();
        let mut command = match self.kind {
            Kind::Faithful => {
                let mut command = self.scratch.command(tool("emu/bin/python"));
                command.args(["-B", concat!(env!("CARGO_MANIFEST_DIR"), "/local-cloud/s3.py")]).envs(self.env());
                command.envs([("GATEWAY_PORT", port.as_str()), ("BIND_HOST", "127.0.0.1"), ("MINISTACK_HOST", "127.0.0.1")]);
                command.envs([("MINISTACK_REGION", REGION), ("SFTP_ENABLED", "0"), ("IOT_MTLS_ENABLED", "0")]);
                // Its pid file and its keys go where all of the test goes.
                command.env("TMPDIR", self.scratch.path()).env("STATE_DIR", self.scratch.path());
                command
            }
            Kind::Disk => {
                let root = self.disk();
                std::fs::create_dir_all(&root).expect("make the store's directory");
                let mut command = self.scratch.command(tool("bin/s3s-fs"));
                command.args(["--host", "127.0.0.1", "--port", &port, "--access-key", KEY, "--secret-key", KEY]).arg(root);
                command
            }
        };
        let mut child = command.stdout(log.try_clone().expect("share the log")).stderr(log).spawn().expect("start the local S3");
        let serves = wait_for("the local S3", || match child.try_wait().expect("look at the local S3") {
            Some(_) => Some(false),
            None => TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok().map(|_| true),
        });
        *self.server.lock().expect("the server's lock") = serves.then_some(child);
        serves
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.scratch.join("s3.log")).unwrap_or_default()
    }

    /// Kills it: connections are refused from now on.
    pub fn down(&self) {
        if let Some(mut child) = self.server.lock().expect("the server's lock").take() {
            child.kill().expect("kill the local S3");
            child.wait().expect("the local S3's end");
        }
    }

    /// Stops it without closing anything, as a network that swallows packets; `thaw` goes on.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    /// Goes on after `freeze`.
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let pid = self.server.lock().expect("the server's lock").as_ref().expect("a running S3").id();
        crate::run(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]));
    }

    /// The environment of a client: endpoint, region, credentials.
    pub fn env(&self) -> [(&'static str, String); 6] {
        [
            ("AWS_ENDPOINT_URL", self.url()),
            ("AWS_REGION", REGION.into()),
            ("AWS_DEFAULT_REGION", REGION.into()),
            ("AWS_ACCESS_KEY_ID", KEY.into()),
            ("AWS_SECRET_ACCESS_KEY", KEY.into()),
            // No test may wait for, or find, the metadata service of the machine it runs on.
            ("AWS_EC2_METADATA_DISABLED", "true".into()),
        ]
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The bucket, in this process.
    pub fn bucket(&self) -> Bucket {
        Self::bucket_at(self.url())
    }

    /// The bucket, in this process, by way of another address: a [`crate::Proxy`]'s.
    pub fn bucket_at(url: String) -> Bucket {
        let endpoint = Endpoint { url, region: REGION.into(), access_key_id: KEY.into(), secret_access_key: KEY.into() };
        block_on(Bucket::connect_to(BUCKET, &endpoint))
    }

    /// The keys below a prefix.
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        block_on(self.bucket().list(prefix)).expect("list the bucket")
    }

    /// An object's bytes.
    pub fn get(&self, key: &str) -> Vec<u8> {
        block_on(self.bucket().get(key, None, u64::MAX)).expect("get an object").to_vec()
    }

    /// Damages an object: new bytes at the same key. On a bucket with versions this is a new version, and readers
    /// that name the old one do not see it; see `damage`.
    pub fn overwrite(&self, key: &str, bytes: &[u8]) {
        self.raw("PUT", &format!("/{BUCKET}/{key}"), bytes);
    }

    /// Damages an object where it lies, as a store that lost or changed bytes would: no new version, no new checksum.
    /// Only on disk, where the bytes can be reached.
    pub fn damage(&self, key: &str, change: impl FnOnce(&mut Vec<u8>)) {
        assert_eq!(self.kind, Kind::Disk, "only the store on disk can be damaged where it lies");
        let path = self.disk().join(BUCKET).join(key);
        let mut bytes = std::fs::read(&path).expect("read a stored object");
        change(&mut bytes);
        std::fs::write(&path, bytes).expect("damage a stored object");
    }

    /// Puts bytes where an object lies, as [`S3::damage`] does, or with none takes it away.
    pub fn place(&self, key: &str, bytes: Option<&[u8]>) {
        assert_eq!(self.kind, Kind::Disk, "only the store on disk can be damaged where it lies");
        let path = self.disk().join(BUCKET).join(key);
        match bytes {
            Some(bytes) => std::fs::write(&path, bytes).expect("damage a stored object"),
            None => std::fs::remove_file(&path).expect("lose a stored object"),
        }
    }

    /// Deletes an object, as an operator's mistake would.
    pub fn delete(&self, key: &str) {
        self.raw("DELETE", &format!("/{BUCKET}/{key}"), b"");
    }

    /// Unfinished multipart uploads: keys that somebody began and neither completed nor aborted.
    pub fn unfinished_uploads(&self) -> Vec<String> {
        let answer = self.raw("GET", &format!("/{BUCKET}?uploads"), b"");
        let text = String::from_utf8_lossy(&answer).into_owned();
        text.split("<Upload>").skip(1).filter_map(|u| Some(u.split_once("<Key>")?.1.split_once("</Key>")?.0.to_owned())).collect()
    }

    /// Processor seconds that it has spent so far.
    pub fn cpu_seconds(&self) -> f64 {
        let pid = self.server.lock().expect("the server's lock").as_ref().expect("a running S3").id();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("read the S3's statistics");
        // The fields behind the name, which may hold spaces; ticks are hundredths of a second on Linux.
        let fields: Vec<_> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
        fields[11..13].iter().map(|f| f.parse::<f64>().expect("a number of ticks")).sum::<f64>() / 100.0
    }

    fn disk(&self) -> PathBuf {
        self.scratch.join("store")
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        self.scratch.path()
    }

    /// One request that our own client has no reason to be able to make.
    fn raw(&self, method: &str, path: &str, body: &[u8]) -> Vec<u8> {
        let bytes = self.scratch.join("body");
        std::fs::write(&bytes, body).expect("write a request's body");
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--fail-with-body", "--request", method, "--aws-sigv4", "aws:amz:eu-west-1:s3"])
            .args(["--user", "test:test", "--data-binary"])
            .arg(format!("@{}", bytes.display()))
            .args(["--header", "content-type: application/octet-stream"])
            .arg(format!("{}{path}", self.url()))
            .output()
            .expect("run curl");
        assert!(
            output.status.success(),
            "{method} {path}: {}{}",
            String::from_utf8_lossy(&output.stderr),
            String::from_utf8_lossy(&output.stdout)
        );
        output.stdout
    }

    /// Stores `bytes` under a key of the test's own (a request, a plan), through the ordinary client.
    pub fn put(&self, key: &str, bytes: &[u8]) {
        block_on(self.bucket().put_new(key, Bytes::copy_from_slice(bytes), "application/json")).expect("store an object");
    }
}
