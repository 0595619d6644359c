//! docs/BENCHMARKS.md: three commands write it, each its own part.

use std::path::Path;

/// A part of it, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Of the helper: `make bench`. It begins the document.
    Helper,
    /// Of the functions: `make bench-functions`.
    Functions,
    /// Of the catalog: `make bench-catalog`.
    Catalog,
}

impl Part {
    /// Where it begins; what comes before the first of these is the helper's.
    fn heading(self) -> &'static str {
        match self {
            Self::Helper => "",
            Self::Functions => "## Functions\n",
            Self::Catalog => "## Catalog\n",
        }
    }
}

/// Replaces a part; its heading is written here.
pub fn write(part: Part, text: &str) {
    let before = std::fs::read_to_string(path()).unwrap_or_default();
    std::fs::write(path(), with(&before, part, text)).expect("write docs/BENCHMARKS.md");
}

fn with(document: &str, part: Part, text: &str) -> String {
    let parts = [Part::Helper, Part::Functions, Part::Catalog].map(|one| match one == part {
        true => text.trim().to_owned(),
        false => found(document, one).trim().to_owned(),
    });
    let mut whole = String::new();
    for (one, text) in [Part::Helper, Part::Functions, Part::Catalog].into_iter().zip(parts).filter(|(_, text)| !text.is_empty()) {
        let heading = one.heading();
        whole.push_str(&format!(
            "{}{heading}{}{text}\n",
            if whole.is_empty() { "" } else { "\n" },
            if heading.is_empty() { "" } else { "\n" }
        ));
    }
    whole
}

/// A part without its heading.
fn found(document: &str, part: Part) -> &str {
    let others = [Part::Functions, Part::Catalog].map(Part::heading);
    let rest = match part.heading() {
        "" => document,
        heading => document.split_once(heading).map_or("", |(_, rest)| rest),
    };
    others.iter().filter_map(|heading| rest.find(heading)).min().map_or(rest, |end| &rest[..end])
}

fn path() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/BENCHMARKS.md"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_is_replaced_and_the_others_stay() {
        let mut document = with("", Part::Catalog, "c");
        for (part, text) in
            [(Part::Helper, "# Benchmarks\n\n## Backup\n\na"), (Part::Functions, "f"), (Part::Catalog, "c2"), (Part::Functions, "f2\n")]
        {
            document = with(&document, part, text);
        }
        assert_eq!(document, "# Benchmarks\n\n## Backup\n\na\n\n## Functions\n\nf2\n\n## Catalog\n\nc2\n");
        assert_eq!(with(&document, Part::Catalog, "c2"), document);
    }
}
