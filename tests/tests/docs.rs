//! The documents say what is so.

use highwater_core::Failure;
use highwater_host::config::Config;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

#[test]
fn the_documented_configuration_is_one_and_states_the_defaults() {
    let documented = Config::load(&root().join("docs/host.toml")).unwrap_or_else(|e| panic!("{}", e.chain()));
    let dir = tempfile::tempdir().unwrap();
    let least = dir.path().join("host.toml");
    fs::write(&least, "cluster = \"orders\"\nhost_id = \"i-0123456789abcdef0\"\n").unwrap();
    let mut least = Config::load(&least).unwrap_or_else(|e| panic!("{}", e.chain()));
    // What has no default is taken over; all the rest must be what it says.
    least.drill.newest.clone_from(&documented.drill.newest);
    least.drill.assert.clone_from(&documented.drill.assert);
    assert_eq!(documented.promote.as_ref().map(|p| (p.stop_timeout_s, p.start_timeout_s)), Some((600, 600)));
    least.promote.clone_from(&documented.promote);
    assert_eq!(format!("{documented:#?}"), format!("{least:#?}"));
}

#[test]
fn the_readmes_configuration_is_one() {
    let readme = read("README.md");
    let toml = readme.split("```toml\n").nth(1).and_then(|t| t.split("```").next()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("host.toml");
    fs::write(&path, toml).unwrap();
    Config::load(&path).unwrap_or_else(|e| panic!("{}", e.chain()));
}

#[test]
fn the_readme_lists_every_exit_code() {
    let readme = read("README.md");
    for failure in Failure::ALL {
        let row = format!("| {} | {failure} | {} |", failure.exit_code(), failure.meaning());
        assert!(readme.contains(&row), "the README lacks {row}");
    }
}

#[test]
fn every_test_that_a_document_names_exists() {
    let mut code = String::new();
    for dir in ["crates", "host-helper", "functions", "tests"] {
        collect(&root().join(dir), &mut code);
    }
    for document in ["docs/ARCHITECTURE.md", "docs/SEMANTICS.md", "docs/SECURITY.md"] {
        let text = read(document);
        let words: Vec<&str> = text.split('`').skip(1).step_by(2).filter(|word| *word != "lower_case_table_names").collect();
        let named: Vec<_> = words.iter().filter(|word| word.matches('_').count() >= 3 && !word.contains(char::is_whitespace)).collect();
        assert!(named.len() > 20, "{document}: {named:?}");
        let missing: Vec<_> = named.iter().filter(|name| !code.contains(&format!("fn {name}("))).collect();
        assert!(missing.is_empty(), "{document} names tests that do not exist: {missing:#?}");
        // A test of the template: `access.test.ts: its name`.
        for (file, name) in words.iter().filter_map(|word| word.split_once(".test.ts: ")) {
            assert!(
                read(&format!("infra/cdk/test/{file}.test.ts")).contains(&format!("it(\"{name}\"")),
                "{document}: no such test: {file}: {name}"
            );
        }
    }
}

/// Where a document may say something that no test holds: what is not promised.
const NO_PROMISE: &[&str] = &["**The limit.**", "**Not stopped:**"];

/// What a document promises without naming a test. A promise is what stands between the names of two groups of tests (names stand
/// in `code` within *italics*) in one paragraph, or a row of a table. A paragraph without tests that leads to a table belongs to
/// it. A table none of whose rows names a test is held by those that the paragraph before or after it names. What stands before
/// the first heading of the second level tells what the document is.
fn promises_without_a_test(document: &str) -> Vec<String> {
    let body = document.find("\n## ").map_or("", |at| &document[at..]);
    let blocks: Vec<String> =
        body.split("\n\n").map(|block| block.lines().filter(|l| !l.starts_with('#')).collect::<Vec<_>>().join("\n")).collect();
    let blocks: Vec<&str> = blocks.iter().map(|block| block.trim()).filter(|block| !block.is_empty()).collect();
    let mut found = Vec::new();
    for (index, block) in blocks.iter().enumerate() {
        let beside = |at: Option<usize>| at.and_then(|i| blocks.get(i)).copied().unwrap_or_default();
        let (before, after) = (beside(index.checked_sub(1)), beside(Some(index + 1)));
        if block.starts_with('|') {
            let rows: Vec<&str> = block.lines().skip(2).collect();
            let bare = rows.iter().filter(|row| !names_tests(row));
            match rows.iter().any(|row| names_tests(row)) {
                true => found.extend(bare.map(|row| (*row).to_owned())),
                false if names_tests(before) || names_tests(after) => {}
                false => found.push((*block).to_owned()),
            }
        } else if !NO_PROMISE.iter().any(|words| block.starts_with(words)) && (!after.starts_with('|') || names_tests(block)) {
            let last = block.rsplit_once("`*").map_or(*block, |(_, rest)| rest);
            found.extend((!last.trim_matches(['.', ' ', '\n']).is_empty()).then(|| last.trim().to_owned()));
        }
    }
    found
}

fn names_tests(text: &str) -> bool {
    text.contains("*`") && text.contains("`*")
}

#[test]
fn every_promise_names_the_test_that_holds_it() {
    for document in ["docs/SEMANTICS.md", "docs/SECURITY.md"] {
        assert_eq!(promises_without_a_test(&read(document)), [""; 0], "{document}: a promise without a test");
    }
    let bare = |text: &str| promises_without_a_test(&format!("Intro.\n\n## One\n\n{text}")).len();
    assert_eq!(bare("It holds. *`a_test_says_so`*"), 0);
    assert_eq!(bare("It holds.\n*`a_test_says_so`,\n`and_another_one_too`*"), 0);
    assert_eq!(bare("It holds. *`a_test_says_so`* So does this."), 1);
    assert_eq!(bare("It holds."), 1);
    assert_eq!(bare("It *really* holds, says `code`."), 1);
    assert_eq!(bare("**The limit.** It does not hold."), 0);
    let table = "| a | b |\n| --- | --- |\n";
    assert_eq!(bare(&format!("These hold:\n\n{table}| 1 | it does *`a_test_says_so`* |\n| 2 | this too |")), 1);
    assert_eq!(bare(&format!("These hold:\n\n{table}| 1 | it does |\n| 2 | this too |\n\n*`a_test_says_so`*")), 0);
    assert_eq!(bare(&format!("These hold:\n\n{table}| 1 | it does |\n\nThis too. *`a_test_says_so`*")), 0);
    assert_eq!(bare(&format!("These hold:\n\n{table}| 1 | it does |")), 1);
}

fn collect(dir: &Path, code: &mut String) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, code);
        } else if path.extension().is_some_and(|e| e == "rs") {
            code.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}
