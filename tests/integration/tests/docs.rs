//! Runs every SQL block of the README and of docs/, and every file of examples/: each page from top to bottom, in
//! a database of its own on a cluster of its own that has the library preloaded.
//!
//! A block is what stands between "```sql" and "```"; each runs in a session of its own. Comments in a block say
//! what is expected of it:
//!
//! - `-- error: 42501`: its last statement fails with this SQLSTATE;
//! - `-- gives: 1|text`: a line of its output, as `psql -At` prints it; all that are not empty are given, or none;
//! - `-- until: t`: the same, and the block is repeated until it gives that, for up to a minute;
//! - `-- as: somebody`: it runs as this role.

use std::fs;
use std::path::{Path, PathBuf};

use integration::{Cluster, Error, Output, Result, poll};

const DATABASE: &str = "shop";

/// A block of SQL, and what is expected of it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Block {
    line: usize,
    sql: String,
    error: Option<String>,
    gives: Vec<String>,
    until: bool,
    role: Option<String>,
}

impl Block {
    fn new(line: usize, sql: &str) -> Self {
        let mut block = Self {
            line,
            sql: sql.to_owned(),
            ..Self::default()
        };
        for text in sql.lines() {
            let Some((key, value)) = text
                .trim()
                .strip_prefix("-- ")
                .and_then(|rest| rest.split_once(": "))
            else {
                continue;
            };
            match key {
                "error" => block.error = Some(value.to_owned()),
                "gives" => block.gives.push(value.to_owned()),
                "until" => {
                    block.until = true;
                    block.gives.push(value.to_owned());
                }
                "as" => block.role = Some(value.to_owned()),
                _ => {}
            }
        }
        block
    }

    /// Runs the block, and says what is wrong with the outcome, if anything is.
    fn run(&self, node: &Cluster) -> Result<Option<String>> {
        let once = || -> Result<Option<String>> { Ok(self.problem(&self.psql(node)?)) };
        let problem = if self.until {
            let mut last = Ok(None);
            poll(60, || {
                last = once();
                matches!(last, Ok(None)).then_some(())
            });
            last?
        } else {
            once()?
        };
        if self.sql.contains("pg_reload_conf") {
            node.reload()?;
        }
        Ok(problem)
    }

    fn psql(&self, node: &Cluster) -> Result<Output> {
        let script = format!("\\set VERBOSITY verbose\n{}", self.sql);
        node.psql_as(
            self.role.as_deref().unwrap_or("postgres"),
            DATABASE,
            &script,
        )
    }

    fn problem(&self, output: &Output) -> Option<String> {
        match &self.error {
            Some(state) if output.success() => {
                return Some(format!("expected error {state}, and it succeeded"));
            }
            Some(state) if !output.stderr.contains(&format!("  {state}: ")) => {
                return Some(format!("expected error {state}:\n{}", output.stderr));
            }
            None if !output.success() => return Some(output.stderr.clone()),
            _ => {}
        }
        // A function that returns void gives an empty line.
        let came: Vec<_> = output.stdout.lines().filter(|l| !l.is_empty()).collect();
        (!self.gives.is_empty() && came != self.gives)
            .then(|| format!("expected {:#?}, came {came:#?}", self.gives))
    }
}

/// The SQL blocks of a page. A file of SQL is one block.
fn blocks(path: &Path, text: &str) -> Vec<Block> {
    if path.extension().is_some_and(|e| e == "sql") {
        return vec![Block::new(1, text)];
    }
    let mut found = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (index, line) in text.lines().enumerate() {
        match &mut open {
            None if line.trim() == "```sql" => open = Some((index + 2, String::new())),
            None => {}
            Some((start, sql)) if line.trim() == "```" => {
                found.push(Block::new(*start, sql));
                open = None;
            }
            Some((_, sql)) => {
                sql.push_str(line);
                sql.push('\n');
            }
        }
    }
    assert!(open.is_none(), "{}: a block is not closed", path.display());
    found
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Runs a page, and returns how many blocks it has.
fn run_page(path: &Path) -> Result<usize> {
    let text = fs::read_to_string(path)?;
    let blocks = blocks(path, &text);
    if blocks.is_empty() {
        return Ok(0);
    }
    let node = Cluster::builder("docs")
        .preload("pg_custodian")
        .conf("custodian.naptime = '1s'")
        .start()?;
    node.exec(&format!("CREATE DATABASE {DATABASE}"))?;
    for block in &blocks {
        if let Some(problem) = block.run(&node)? {
            let name = path.strip_prefix(root()).unwrap_or(path).display();
            return Err(Error::new(format!("{name}:{}: {problem}", block.line)));
        }
    }
    Ok(blocks.len())
}

/// Runs all pages of a directory with this extension, and returns how many blocks they have.
fn run_directory(name: &str, extension: &str) -> Result<usize> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(root().join(name))? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == extension) {
            paths.push(path);
        }
    }
    paths.sort();
    let mut count = 0;
    let mut problems = Vec::new();
    for path in paths {
        match run_page(&path) {
            Ok(n) => count += n,
            Err(problem) => problems.push(problem.to_string()),
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n\n"));
    Ok(count)
}

#[test]
fn blocks_are_found_with_what_they_expect() {
    let page = "Text\n```sql\nSELECT 1; -- one\n-- gives: 1\n```\n```sh\nls\n```\n```sql\n-- as: li\n-- error: 42501\nDROP TABLE t;\n```\n";
    let found = blocks(Path::new("page.md"), page);
    assert_eq!(found.len(), 2);
    assert_eq!(
        (found[0].line, found[0].gives.as_slice()),
        (3, &["1".to_owned()][..])
    );
    assert_eq!(found[1].error.as_deref(), Some("42501"));
    assert_eq!(found[1].role.as_deref(), Some("li"));
}

#[test]
fn a_page_that_is_wrong_is_reported() -> Result<()> {
    let node = Cluster::builder("docs").start()?;
    node.exec(&format!("CREATE DATABASE {DATABASE}"))?;
    let run = |sql: &str| Block::new(1, sql).run(&node);
    assert_eq!(run("SELECT 1, 'x';\n-- gives: 1|x")?, None);
    assert!(run("SELECT 2;\n-- gives: 1")?.is_some_and(|p| p.contains('2')));
    assert!(run("SELECT * FROM missing;")?.is_some_and(|p| p.contains("missing")));
    assert_eq!(run("SELECT * FROM missing;\n-- error: 42P01")?, None);
    assert!(run("SELECT * FROM missing;\n-- error: 42501")?.is_some());
    assert!(run("SELECT 1;\n-- error: 42P01")?.is_some());
    Ok(())
}

#[test]
fn readme_is_true() -> Result<()> {
    let count = run_page(&root().join("README.md"))?;
    assert!(count > 0, "README.md has no SQL");
    Ok(())
}

#[test]
fn docs_are_true() -> Result<()> {
    let count = run_directory("docs", "md")?;
    assert!(count > 0, "docs/ has no SQL");
    Ok(())
}

#[test]
fn examples_run() -> Result<()> {
    let count = run_directory("examples", "sql")?;
    assert!(count > 0, "examples/ has no SQL");
    Ok(())
}
