//! Reads the `[client]` section of a defaults file, by the same rules as the server's own clients, so that the helper and
//! the backup tool understand one file alike.
//!
//! Only a regular file, ours, that nobody else can read is taken: on a pipe (`<(…)`) the backup tool silently ignores
//! the file and connects as somebody else (measured).

use crate::error::{Context, Error, Result};
use highwater_core::Failure;
use rustix::fs::{Mode, OFlags};
use std::fmt;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A defaults file is a few lines.
const MAX_BYTES: u64 = 64 << 10;

/// What the `[client]` section says.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Client {
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) socket: Option<PathBuf>,
    pub(crate) host: Option<String>,
    pub(crate) port: Option<u16>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { user, socket, host, port, .. } = self;
        f.debug_struct("Client").field("user", user).field("socket", socket).field("host", host).field("port", port).finish_non_exhaustive()
    }
}

/// Reads the file.
///
/// # Errors
/// `Config`, naming the line, never its value.
pub(crate) fn read(path: &Path) -> Result<Client> {
    let refused = |reason: String, hint: &str| Err(Error::new(Failure::Config, format!("{}: {reason}", path.display())).hint(hint));
    let opened = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty());
    let file = std::fs::File::from(opened.context(Failure::Config, || format!("open {}", path.display()))?);
    let meta = file.metadata().context(Failure::Config, || format!("look at {}", path.display()))?;
    if !meta.is_file() {
        return refused("it is not a regular file; the backup tool would ignore it".into(), "give a real file, not a pipe or <(…)");
    }
    if meta.uid() != rustix::process::geteuid().as_raw() {
        return refused(format!("it belongs to user id {}", meta.uid()), "chown it to the user that runs highwater-host");
    }
    if meta.mode() & 0o077 != 0 {
        return refused(format!("others may read it (mode {:04o})", meta.mode() & 0o7777), "chmod 600");
    }
    let mut text = String::new();
    file.take(MAX_BYTES + 1).read_to_string(&mut text).context(Failure::Config, || format!("read {}", path.display()))?;
    if text.len() as u64 > MAX_BYTES {
        return refused("it is larger than 64 KiB".into(), "keep only the [client] section");
    }
    parse(&text).map_err(|reason| Error::new(Failure::Config, format!("{}: {reason}", path.display())))
}

fn parse(text: &str) -> Result<Client, String> {
    let mut client = Client::default();
    let mut in_client = false;
    for (number, line) in text.lines().enumerate() {
        let at = |reason: &str| format!("line {}: {reason}", number + 1);
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if line.starts_with('!') {
            return Err(at("include directives are not followed; put the [client] section into this file"));
        }
        if let Some(section) = line.strip_prefix('[') {
            let Some((name, _)) = section.split_once(']') else { return Err(at("a section without ]")) };
            in_client = name.trim() == "client";
            continue;
        }
        if !in_client {
            continue;
        }
        let line = without_comment(line);
        let (key, value) = match line.split_once('=') {
            Some((key, value)) => (key.trim(), Some(unquoted(value.trim()))),
            None => (line.trim(), None),
        };
        let value = |name: &str| value.clone().ok_or_else(|| at(&format!("{name} has no value")));
        match key.replace('_', "-").as_str() {
            "user" => client.user = Some(value("user")?),
            "password" => client.password = Some(value("password")?),
            "socket" => client.socket = Some(value("socket")?.into()),
            "host" => client.host = Some(value("host")?),
            "port" => client.port = Some(value("port")?.parse().map_err(|_| at("port is not a number of 1 to 65535"))?),
            // The tools know what else is there; we do not need it.
            _ => {}
        }
    }
    Ok(client)
}

/// Cuts a `#` comment, unless it is inside quotes.
fn without_comment(line: &str) -> &str {
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in line.char_indices() {
        if matches!(c, '\'' | '"') && !escaped {
            match quote {
                None => quote = Some(c),
                Some(open) if open == c => quote = None,
                Some(_) => {}
            }
        }
        if quote.is_none() && c == '#' {
            return line.get(..at).unwrap_or(line);
        }
        escaped = quote.is_some() && c == '\\' && !escaped;
    }
    line
}

/// Takes one pair of quotes off and resolves the escapes; an unknown escape keeps its backslash.
fn unquoted(value: &str) -> String {
    let bare = ['"', '\''].iter().find_map(|q| value.strip_prefix(*q)?.strip_suffix(*q)).unwrap_or(value);
    let mut out = String::with_capacity(bare.len());
    let mut chars = bare.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('r') => out.push('\r'),
            Some('b') => out.push('\u{8}'),
            Some('s') => out.push(' '),
            Some(c @ ('"' | '\'' | '\\')) => out.push(c),
            Some(c) => out.extend(['\\', c]),
            None => out.push('\\'),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn values_are_read_as_the_servers_own_clients_read_them() {
        let check = |line: &str, expected: &str| {
            let client = parse(&format!("[mysqld]\npassword=no\n[client]\n{line}\n[other]\npassword=no\n")).unwrap();
            assert_eq!(client.password.as_deref(), Some(expected), "{line}");
        };
        check("password=plain", "plain");
        check("  password =  spaced out  ", "spaced out");
        check("password=cut # comment", "cut");
        check("password=\"kept # inside\" # comment", "kept # inside");
        check(r#"password="s3cr#t\"x"   # comment"#, "s3cr#t\"x");
        check(r"password='a\\b\sc\qd'", r"a\b c\qd");
        check("password=it's", "it's");
        check("password=\"", "\"");
        check("password=", "");
        check("password=a=b", "a=b");
        check("password=first\npassword=last", "last");
    }

    #[test]
    fn the_other_keys_and_what_is_refused() {
        let client = parse("[client]\nuser=bk\nsocket=/run/s.sock\nhost=127.0.0.1\nport=3307\nssl-ca=/x\nloose_thing\n").unwrap();
        assert_eq!((client.user.as_deref(), client.port, client.host.as_deref()), (Some("bk"), Some(3307), Some("127.0.0.1")));
        assert!(parse("[client]\nport=99999").unwrap_err().contains("line 2"));
        assert!(parse("!includedir /etc/my.cnf.d").is_err());
        assert!(parse("[client\nuser=x").is_err());
        let password = parse("[client]\npassword=geheim").unwrap();
        assert!(!format!("{password:?}").contains("geheim"));
    }

    #[test]
    fn only_a_private_regular_file_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("my.cnf");
        std::fs::write(&path, "[client]\nuser=bk\n").unwrap();
        let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        mode(0o640);
        assert!(read(&path).unwrap_err().message.contains("others may read it (mode 0640)"));
        mode(0o600);
        assert_eq!(read(&path).unwrap().user.as_deref(), Some("bk"));
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert!(read(&pipe).unwrap_err().message.contains("not a regular file"));
        assert!(read(dir.path()).is_err());
        std::fs::write(&path, "x".repeat(70_000)).unwrap();
        assert!(read(&path).unwrap_err().message.contains("64 KiB"));
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics_it(text in "(\\[client\\]\n)?([a-z=\"'\\\\# \n]{0,80})") {
            let _ = parse(&text);
        }
    }
}
