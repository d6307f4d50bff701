//! Tests that need a server are `#[pg_test]`s, and pure tests are not: `make test` tells them apart by their names,
//! and one that is taken for the other would crash, or not run at all. And docs/house.md says where things are.

use std::fs;
use std::path::{Path, PathBuf};

/// What only works inside a server.
const SERVER_ONLY: [&str; 5] = ["Spi::", "pg_sys::", "PgRelation", "PgTryBuilder", "unsafe"];

#[test]
fn tests_of_the_extension_run_where_they_belong() {
    let files = rust_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../src"));
    assert!(files.len() > 10, "the source was found");
    let problems: Vec<String> = files
        .iter()
        .flat_map(|file| {
            let text = fs::read_to_string(file).unwrap_or_default();
            problems(&text)
                .into_iter()
                .map(|problem| format!("{}: {problem}", file.display()))
        })
        .collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn misplaced_tests_are_found() {
    let pure = "#[test]\nfn adds() {\n    assert_eq!(1 + 1, 2);\n}\n";
    assert_eq!(problems(pure), Vec::<String>::new());
    let inside =
        "mod tests {\n    #[test]\n    fn reads() {\n        Spi::run(\"SELECT 1\");\n    }\n}\n";
    assert_eq!(
        problems(inside),
        ["reads: uses Spi::, make it a #[pg_test]"]
    );
    let after = format!("{pure}fn other() {{\n    Spi::run(\"SELECT 1\");\n}}\n");
    assert_eq!(problems(&after), Vec::<String>::new(), "another function");
    let name = "#[test]\n#[should_panic]\nfn pg_adds() {\n}\n";
    assert_eq!(
        problems(name),
        ["pg_adds: only #[pg_test]s are called pg_…"]
    );
    let server = "#[pg_test]\nfn reads() {\n}\n";
    assert_eq!(
        problems(server),
        ["reads: a #[pg_test] must be in a #[pg_schema] mod tests"]
    );
    let placed = format!(
        "#[cfg(any(test, feature = \"pg_test\"))]\n#[pg_schema]\nmod tests {{\n{server}}}\n"
    );
    assert_eq!(problems(&placed), Vec::<String>::new());
}

/// A newcomer's map that is out of date is worse than none.
#[test]
fn the_page_on_the_house_names_every_directory_of_the_source_and_no_file_that_is_not_there() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = fs::read_to_string(top.join("docs/house.md")).unwrap_or_default();
    let named: Vec<&str> = page
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| word.contains('/') && !word.contains(' '))
        .collect();
    let missing: Vec<&&str> = named.iter().filter(|n| !top.join(n).exists()).collect();
    assert!(missing.is_empty(), "named and not there: {missing:?}");
    let mut unnamed: Vec<String> = rust_files(&top.join("src"))
        .iter()
        .filter_map(|file| file.parent()?.strip_prefix(&top).ok())
        .map(|directory| format!("{}/", directory.display()))
        .filter(|directory| !named.contains(&directory.as_str()))
        .collect();
    unnamed.dedup();
    assert!(unnamed.is_empty(), "there and not named: {unnamed:?}");
}

/// What is wrong with the tests in one file.
fn problems(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let attribute = line.trim_start();
        let Some(start) = lines[number..]
            .iter()
            .position(|l| function_name(l).is_some())
        else {
            break;
        };
        let start = number + start;
        let name = function_name(lines[start]).unwrap_or_default();
        if attribute.starts_with("#[pg_test") && !text.contains("#[pg_schema]") {
            found.push(format!(
                "{name}: a #[pg_test] must be in a #[pg_schema] mod tests"
            ));
        }
        if attribute != "#[test]" {
            continue;
        }
        if name.starts_with("pg_") {
            found.push(format!("{name}: only #[pg_test]s are called pg_…"));
        }
        let indent = lines[start].len() - lines[start].trim_start().len();
        let end = format!("{}}}", " ".repeat(indent));
        let body = lines[start..].iter().take_while(|l| **l != end);
        let code: String = body
            .map(|l| l.split("//").next().unwrap_or_default())
            .collect();
        if let Some(used) = SERVER_ONLY.iter().find(|word| code.contains(**word)) {
            found.push(format!("{name}: uses {used}, make it a #[pg_test]"));
        }
    }
    found
}

/// The name of the function that begins on this line, if one does.
fn function_name(line: &str) -> Option<&str> {
    let rest = line.trim_start();
    let rest = rest
        .strip_prefix("pub ")
        .unwrap_or(rest)
        .strip_prefix("fn ")?;
    rest.split(['(', '<']).next()
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files
}
