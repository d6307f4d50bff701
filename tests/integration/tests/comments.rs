//! Comments of SQL functions, for `\df+`: the first paragraph of each function's docstring, kept in one place.
//!
//! The docstrings are the source. With `CUSTODIAN_TEST_ACCEPT=1` the comments in the SQL files are written from them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use integration::{Cluster, Result, quote_literal};

const BEGIN: &str = "-- Comments of functions, written from their docstrings by tests/integration/tests/comments.rs.\n";

/// The files that end with the comments: a new installation runs one, an upgrade the other.
const FILES: [&str; 2] = ["sql/finalize.sql", "sql/pg_custodian--0.1.0--0.2.0.sql"];

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn rust_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(files)
}

/// The first paragraph of the docstring that ends in the last line of `text`; attributes may stand between.
fn docstring(text: &str) -> String {
    let mut lines: Vec<&str> = text
        .lines()
        .rev()
        .map(str::trim)
        .take_while(|line| line.starts_with("///") || line.starts_with("#["))
        .filter_map(|line| line.strip_prefix("///"))
        .map(str::trim)
        .collect();
    lines.reverse();
    let first: Vec<&str> = lines
        .into_iter()
        .take_while(|line| !line.is_empty())
        .collect();
    first.join(" ").replace('`', "")
}

/// The SQL functions of a source file with the comment of each.
fn functions(source: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (at, _) in source.match_indices("#[pg_extern(") {
        let (before, rest) = source.split_at(at);
        let Some((attribute, rest)) = rest.split_once(")]") else {
            continue;
        };
        // One whose SQL is written out names itself there.
        let written = attribute
            .split_once("CREATE FUNCTION custodian.")
            .or_else(|| attribute.split_once("CREATE PROCEDURE custodian."));
        if attribute.contains("sql = false")
            || written.is_none() && !attribute.contains("schema = \"custodian\"")
        {
            continue;
        }
        let named = written
            .and_then(|(_, rest)| rest.split_once('('))
            .or_else(|| {
                attribute
                    .split_once("name = \"")
                    .and_then(|(_, rest)| rest.split_once('"'))
            });
        let name = match named {
            Some((name, _)) => Some(name),
            None => rest
                .split_once("fn ")
                .and_then(|(_, rest)| rest.split_once(['(', '<']))
                .map(|(name, _)| name.trim()),
        };
        if let Some(name) = name {
            found.push((name.to_owned(), docstring(before.trim_end())));
        }
    }
    found
}

/// The statements that comment all functions, in the order of their names.
fn statements() -> Result<String> {
    let mut comments = BTreeMap::new();
    for file in rust_files(&top().join("src"))? {
        for (name, comment) in functions(&fs::read_to_string(&file)?) {
            assert!(
                !comment.is_empty(),
                "{name} in {} has a docstring",
                file.display()
            );
            comments.insert(name, comment);
        }
    }
    assert!(comments.len() > 30, "the functions were found");
    let lines = comments.iter().map(|(name, comment)| {
        format!(
            "COMMENT ON ROUTINE custodian.{name} IS {};\n",
            quote_literal(comment)
        )
    });
    Ok(format!("{BEGIN}{}", lines.collect::<String>()))
}

/// The text of a file without the comments, wherever they are.
fn without(text: &str) -> String {
    let ours = |line: &&str| {
        **line != *BEGIN.trim_end() && !line.starts_with("COMMENT ON ROUTINE custodian.")
    };
    let lines: Vec<&str> = text.lines().filter(ours).collect();
    lines.join("\n").trim_end().to_owned()
}

#[test]
fn docstrings_of_functions_are_their_comments() -> Result<()> {
    let statements = statements()?;
    for file in FILES {
        let path = top().join(file);
        let text = fs::read_to_string(&path)?;
        let wanted = format!("{}\n\n{statements}", without(&text));
        if std::env::var_os("CUSTODIAN_TEST_ACCEPT").is_some() {
            fs::write(&path, &wanted)?;
        } else {
            assert!(
                text == wanted,
                "the comments at the end of {file} are not those of the docstrings: run this test with CUSTODIAN_TEST_ACCEPT=1"
            );
        }
    }
    Ok(())
}

#[test]
fn comments_are_found_and_put_at_the_end() {
    let source = "/// Not this.\nfn other() {}\n\n/// Does `it`,\n/// well.\n///\n/// Errors: none.\n#[pg_extern(schema = \"custodian\", stable)]\n\
                  #[allow(clippy::type_complexity)]\nfn do_it(\n    rel: i32,\n) {}\n\n/// Old.\n#[pg_extern(schema = \"custodian\", sql = false)]\nfn old() {}\n\
                  /// New.\n#[pg_extern(schema = \"custodian\", name = \"old\")]\nfn newer() {}\n";
    let found = functions(source);
    let expected = [("do_it", "Does it, well."), ("old", "New.")];
    let expected = expected.map(|(name, comment)| (name.to_owned(), comment.to_owned()));
    assert_eq!(found, expected);
    let file =
        format!("a;\n\n{BEGIN}COMMENT ON ROUTINE custodian.old IS 'x';\n\nCREATE FUNCTION b;\n");
    assert_eq!(without(&file), "a;\n\n\nCREATE FUNCTION b;");
}

#[test]
fn every_function_and_view_has_a_comment() -> Result<()> {
    let node = Cluster::builder("comments")
        .preload("pg_custodian")
        .start()?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    assert_eq!(
        node.text(
            "SELECT coalesce(string_agg(name, ', ' ORDER BY name), '') FROM (
                 SELECT p.proname AS name FROM pg_proc p
                 WHERE p.pronamespace = 'custodian'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL
                 UNION ALL
                 SELECT c.relname FROM pg_class c
                 WHERE c.relnamespace = 'custodian'::regnamespace AND c.relkind = 'v'
                   AND obj_description(c.oid, 'pg_class') IS NULL) AS bare"
        )?,
        ""
    );
    Ok(())
}
