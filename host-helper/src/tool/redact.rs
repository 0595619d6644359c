//! Takes secrets out of what the tools print, before anything is logged, stored or put into an error.
//!
//! A failed privilege check prints SHOW GRANTS with the password hash (measured). What looks like a secret is cut; what
//! the defaults file says is the password is cut wherever it appears.

use std::fmt;

const MARK: &str = "[redacted]";
/// Lines are cut here: a tool's line is for a person.
const MAX_LINE: usize = 2000;

/// Knows the secrets that must never appear.
#[derive(Clone, Default)]
pub struct Redactor {
    secrets: Vec<String>,
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redactor({} secrets)", self.secrets.len())
    }
}

impl Redactor {
    /// A redactor that also cuts `secret`, if there is one worth the name.
    pub fn knowing(secret: Option<&str>) -> Self {
        Self { secrets: secret.filter(|s| s.len() >= 4).map(str::to_owned).into_iter().collect() }
    }

    /// The line without secrets, control characters and excess length.
    pub fn clean(&self, line: &str) -> String {
        let mut text: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_LINE).collect();
        for secret in &self.secrets {
            text = text.replace(secret, MARK);
        }
        // IDENTIFIED BY/VIA/WITH …: everything behind the word belongs to the credential.
        if let Some(at) = find_ignoring_case(&text, "identified ", 0) {
            text.truncate(at + "identified ".len());
            text.push_str(MARK);
        }
        for key in
            ["password", "passwd", "pwd", "secret_access_key", "session_token", "security-token", "x-amz-signature", "x-amz-credential"]
        {
            text = cut_values_of(&text, key);
        }
        cut_words(&cut_userinfo(&text))
    }
}

/// Byte offset of `needle` (ASCII, lower case) in `text` from `from` on.
fn find_ignoring_case(text: &str, needle: &str, from: usize) -> Option<usize> {
    let lower = text.get(from..)?.to_ascii_lowercase();
    lower.find(needle).map(|at| at + from)
}

/// `key=value`, `key: value`, `key 'value'`: the value goes.
fn cut_values_of(text: &str, key: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = find_ignoring_case(rest, key, 0) {
        let (before, tail) = rest.split_at(at + key.len());
        out.push_str(before);
        let value = tail.trim_start_matches([' ', '=', ':']);
        let separator = &tail[..tail.len() - value.len()];
        let names_value = separator.contains(['=', ':']) || value.starts_with(['\'', '"']);
        if !names_value || value.is_empty() {
            rest = tail;
            continue;
        }
        out.push_str(separator);
        out.push_str(MARK);
        rest = match value.chars().next().filter(|c| matches!(c, '\'' | '"')) {
            Some(quote) => value[1..].split_once(quote).map_or("", |(_, after)| after),
            None => value.find([' ', ',', ';', '&', ')']).map_or("", |end| &value[end..]),
        };
    }
    out.push_str(rest);
    out
}

/// `scheme://user:password@host`: what stands before the `@` goes.
fn cut_userinfo(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, tail) = rest.split_at(at + 3);
        out.push_str(before);
        let authority_end = tail.find(['/', ' ', '\'', '"']).unwrap_or(tail.len());
        rest = match tail[..authority_end].rfind('@') {
            Some(at) => {
                out.push_str(MARK);
                &tail[at..]
            }
            None => tail,
        };
    }
    out.push_str(rest);
    out
}

/// Words that are secrets by their looks: password hashes and AWS access keys.
fn cut_words(text: &str) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '*' | '$' | '/' | '+' | '.' | '_');
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(is_word) {
        let (before, tail) = rest.split_at(start);
        let end = tail.find(|c| !is_word(c)).unwrap_or(tail.len());
        let (word, after) = tail.split_at(end);
        out.push_str(before);
        out.push_str(if secret_by_looks(word) { MARK } else { word });
        rest = after;
    }
    out.push_str(rest);
    out
}

fn secret_by_looks(word: &str) -> bool {
    let native = word.strip_prefix('*').is_some_and(|h| h.len() == 40 && h.bytes().all(|b| b.is_ascii_hexdigit()));
    let caching_sha2 = word.starts_with("$A$") || word.to_ascii_lowercase().starts_with("0x244124");
    let access_key = word.len() == 20 && (word.starts_with("AKIA") || word.starts_with("ASIA"));
    native || caching_sha2 || access_key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_cut_and_the_rest_stays_readable() {
        let redactor = Redactor::knowing(Some("hunter2"));
        let check = |line: &str, expected: &str| assert_eq!(redactor.clean(line), expected);
        check(
            "GRANT RELOAD ON *.* TO `bk`@`localhost` IDENTIFIED BY PASSWORD '*CD39F2BC03EB4FA6BB54B7DF769B530D7F9EC8F5' REQUIRE SSL",
            "GRANT RELOAD ON *.* TO `bk`@`localhost` IDENTIFIED [redacted]",
        );
        check("hash *CD39F2BC03EB4FA6BB54B7DF769B530D7F9EC8F5, end", "hash [redacted], end");
        check("--user=bk --password=geheim --port=1", "--user=bk --password=[redacted] --port=1");
        check("Password: 'a b' next", "Password: [redacted] next");
        check("mysql://bk:pw@host/db and s3://bucket/key", "mysql://[redacted]@host/db and s3://bucket/key");
        check("said hunter2 aloud", "said [redacted] aloud");
        check("AKIAABCDEFGHIJKLMNOP used", "[redacted] used");
        check("using password YES", "using password YES");
        check("\u{1b}[31mred\n", " [31mred ");
        check("redo log (from LSN 44760 to 44776) was copied.", "redo log (from LSN 44760 to 44776) was copied.");
        assert_eq!(format!("{redactor:?}"), "Redactor(1 secrets)");
    }

    proptest::proptest! {
        #[test]
        fn no_line_panics_it_or_leaks_the_known_secret(before in ".{0,60}", after in ".{0,60}") {
            let clean = Redactor::knowing(Some("s3cr3t!")).clean(&format!("{before}s3cr3t!{after}"));
            proptest::prop_assert!(!clean.contains("s3cr3t!"), "{}", clean);
        }
    }
}
