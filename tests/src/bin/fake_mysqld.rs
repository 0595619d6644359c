//! A MySQL server's stand-in: mariadbd underneath, and a [MySQL face](highwater_tests::mysql_face) at its socket. Its version is that of the
//! file `mysql-version` beside it.

use std::path::PathBuf;
use std::process::ExitCode;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> ExitCode {
    let me = PathBuf::from(std::env::args().next().expect("a name"));
    let version = std::fs::read_to_string(me.with_file_name("mysql-version")).expect("read mysql-version beside the program");
    let version = version.trim();
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|arg| arg == "--version") {
        println!("{}  Ver {version} for Linux on x86_64 (MySQL Community Server - GPL)", me.display());
        return ExitCode::SUCCESS;
    }
    let face = PathBuf::from(args.iter().find_map(|arg| arg.strip_prefix("--socket=")).expect("a --socket"));
    let real = face.with_extension("real");
    let own = args.iter().filter(|arg| *arg != "--loose-mysqlx=OFF").map(|arg| match arg.as_str() {
        "--skip-replica-start" => "--skip-slave-start".to_owned(),
        socket if socket.starts_with("--socket=") => format!("--socket={}", real.display()),
        other => other.to_owned(),
    });
    // The group's SIGTERM reaches mariadbd too; its end is ours.
    let _terminated = signal(SignalKind::terminate()).expect("listen to SIGTERM");
    let mut server = Command::new("setpriv").args(["--pdeathsig", "KILL", "/usr/sbin/mariadbd"]).args(own).spawn().expect("start mariadbd");
    highwater_tests::mysql_face::serve(&real, &face, version);
    let ended = server.wait().await.expect("the end of mariadbd");
    let _ = std::fs::remove_file(face);
    ended.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}
