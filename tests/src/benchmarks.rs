//! docs/BENCHMARKS.md: two commands write it, each its own part.

use std::path::Path;

/// Where the functions' part begins; the helper's lies before it.
const FUNCTIONS: &str = "## Functions\n";

/// Replaces the helper's part (`make bench`).
pub fn write_helper(text: &str) {
    let (_, functions) = parts();
    write(text, &functions);
}

/// Replaces the functions' part (`make bench-functions`); its heading is written here.
pub fn write_functions(text: &str) {
    let (helper, _) = parts();
    write(&helper, &format!("{FUNCTIONS}\n{text}"));
}

fn parts() -> (String, String) {
    let text = std::fs::read_to_string(path()).unwrap_or_default();
    match text.split_once(FUNCTIONS) {
        Some((helper, functions)) => (helper.to_owned(), format!("{FUNCTIONS}{functions}")),
        None => (text, String::new()),
    }
}

fn write(helper: &str, functions: &str) {
    let text = format!("{}\n\n{}", helper.trim_end(), functions.trim());
    std::fs::write(path(), format!("{}\n", text.trim_end())).expect("write docs/BENCHMARKS.md");
}

fn path() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/BENCHMARKS.md"))
}
