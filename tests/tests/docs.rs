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
