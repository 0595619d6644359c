//! A test tool in XtraBackup's place: it takes exactly the options that Percona documents for XtraBackup 8.0 and 8.4, exits
//! 255 on any other, writes XtraBackup's files, and runs mariadb-backup underneath.
//!
//! It is stricter than its engine where XtraBackup is: every prepare step but the last needs `--apply-log-only`, and
//! nothing can be applied after the last.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

/// Options with a value that the adapter may use.
const VALUES: &[&str] = &[
    "defaults-file",
    "target-dir",
    "incremental-dir",
    "incremental-lsn",
    "socket",
    "user",
    "parallel",
    "stream",
    "use-memory",
    "lock-ddl",
    "lock-ddl-timeout",
];
/// Options without one.
const FLAGS: &[&str] = &["no-defaults", "backup", "prepare", "apply-log-only"];

/// Its server's version: of the file `mysql-version` beside it, else 8.0.35.
fn server_version() -> String {
    let me = PathBuf::from(std::env::args().next().unwrap_or_default());
    std::fs::read_to_string(me.with_file_name("mysql-version")).map_or("8.0.35".to_owned(), |text| text.trim().to_owned())
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|a| a == "--version") {
        let server = server_version();
        eprintln!("xtrabackup version {server}-31 based on MySQL server {server} Linux (x86_64) (revision id: 55ec21d7)");
        return ExitCode::SUCCESS;
    }
    if let Some((at, unknown)) = args.iter().enumerate().find(|(at, arg)| !known(*at, arg)) {
        eprintln!("xtrabackup: [ERROR] argument {at}: unknown option '{unknown}'.");
        return ExitCode::from(255);
    }
    let done = if args.iter().any(|a| a == "--prepare") { prepare(&args) } else { backup(&args) };
    match done {
        Ok(()) => {
            eprintln!("2026-11-22T12:00:00.000000-00:00 0 [Note] [MY-011825] [Xtrabackup] completed OK!");
            ExitCode::SUCCESS
        }
        Err(reason) => {
            eprintln!("2026-11-22T12:00:00.000000-00:00 0 [ERROR] [MY-011825] [Xtrabackup] {reason}");
            ExitCode::FAILURE
        }
    }
}

fn known(at: usize, arg: &str) -> bool {
    let Some(option) = arg.strip_prefix("--") else { return false };
    let first_only = option == "no-defaults" || option.starts_with("defaults-file=");
    let known = match option.split_once('=') {
        Some((name, value)) => VALUES.contains(&name) && !value.is_empty(),
        None => FLAGS.contains(&option),
    };
    known && first_only == (at == 0)
}

fn value<'a>(args: &'a [String], name: &str) -> Option<&'a str> {
    args.iter().find_map(|a| a.strip_prefix("--")?.strip_prefix(name)?.strip_prefix('='))
}

/// The engine's own options are a subset of XtraBackup's. It goes past a MySQL face to the server itself (`mysql_face`).
fn engine(args: &[String], dir: &Path) -> Result<Command, String> {
    let mut command = Command::new("mariadb-backup");
    for arg in args.iter().filter(|a| !a.starts_with("--lock-ddl") && *a != "--apply-log-only") {
        match arg.strip_prefix("--defaults-file=").map(|file| (file, std::fs::read_to_string(file))) {
            Some((_, Ok(text))) if text.contains("/mysql.sock") => {
                let past = dir.join("past-the-face.cnf");
                std::fs::write(&past, text.replace("/mysql.sock", "/server.sock")).map_err(|e| format!("write {}: {e}", past.display()))?;
                command.arg(format!("--defaults-file={}", past.display()));
            }
            Some((file, Err(e))) => return Err(format!("read {file}: {e}")),
            _ => drop(command.arg(arg)),
        }
    }
    Ok(command)
}

fn ran(command: &mut Command) -> Result<(), String> {
    let status = command.status().map_err(|e| format!("{command:?}: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("{command:?}: {status}")) }
}

fn backup(args: &[String]) -> Result<(), String> {
    let target = PathBuf::from(value(args, "target-dir").ok_or("no --target-dir")?);
    let dir = target.join("fake");
    let io = |what: &'static str| move |e: std::io::Error| format!("{what}: {e}");
    std::fs::create_dir_all(&dir).map_err(io("make a directory"))?;
    let mut tool = engine(args, &target)?.stdout(Stdio::piped()).spawn().map_err(io("start mariadb-backup"))?;
    let stream = tool.stdout.take().ok_or("no stream")?;
    ran(Command::new("mbstream").arg("-x").arg("-C").arg(&dir).stdin(stream))?;
    let status = tool.wait().map_err(io("wait for mariadb-backup"))?;
    if !status.success() {
        return Err(format!("mariadb-backup: {status}"));
    }
    rewrite(&dir.join("xtrabackup_checkpoints"), |text| {
        let last = text.lines().find_map(|l| l.strip_prefix("last_lsn = ")).unwrap_or("0").to_owned();
        let kept: String = text.lines().filter(|l| !l.starts_with("recover_binlog_info")).map(|l| format!("{l}\n")).collect();
        format!("{kept}flushed_lsn = {last}\nredo_memory = 0\nredo_frames = 0\n")
    })?;
    rewrite(&dir.join("xtrabackup_info"), |text| {
        let lines = text.lines().map(|line| match line.split_once(" = ") {
            Some(("server_version", _)) => format!("server_version = {}\n", server_version()),
            Some(("tool_version", _)) => format!("tool_version = {}-31\n", server_version()),
            Some(("tool_name", _)) => "tool_name = xtrabackup\n".to_owned(),
            Some(("format", _)) => "format = xbstream\n".to_owned(),
            _ => format!("{line}\n"),
        });
        lines.collect()
    })?;
    let _ = std::fs::remove_file(target.join("past-the-face.cnf"));
    rename(&dir, "ib_logfile0", "xtrabackup_logfile")?;
    ran(Command::new("sh")
        .current_dir(&dir)
        .args(["-c", "find . -type f ! -name xtrabackup_info -printf '%P\\n' | xargs mbstream -c && mbstream -c xtrabackup_info"]))?;
    std::fs::remove_dir_all(&dir).map_err(io("remove the directory"))
}

fn prepare(args: &[String]) -> Result<(), String> {
    let target = PathBuf::from(value(args, "target-dir").ok_or("no --target-dir")?);
    let checkpoints = target.join("xtrabackup_checkpoints");
    let text = std::fs::read_to_string(&checkpoints).map_err(|e| format!("read {}: {e}", checkpoints.display()))?;
    let incremental = value(args, "incremental-dir").map(PathBuf::from);
    if incremental.is_some() && !text.contains("backup_type = log-applied") {
        return Err("applying incremental backup needs target prepared with --apply-log-only.".into());
    }
    for dir in [Some(&target), incremental.as_ref()].into_iter().flatten() {
        rename(dir, "xtrabackup_logfile", "ib_logfile0")?;
    }
    ran(engine(args, &target)?.stdout(Stdio::null()))?;
    let state = if args.iter().any(|a| a == "--apply-log-only") { "log-applied" } else { "full-prepared" };
    rewrite(&checkpoints, |text| text.replace("backup_type = log-applied", &format!("backup_type = {state}")))
}

fn rename(dir: &Path, from: &str, to: &str) -> Result<(), String> {
    match std::fs::rename(dir.join(from), dir.join(to)) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(format!("rename {from}: {e}")),
        _ => Ok(()),
    }
}

fn rewrite(path: &Path, change: impl FnOnce(String) -> String) -> Result<(), String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("read {}: {e}", path.display()))?;
    std::fs::write(path, change(text)).map_err(|e| format!("write {}: {e}", path.display()))
}
