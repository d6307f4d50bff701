//! Runs the SQL regression tests, tests/pg_regress/sql/*.sql, with PostgreSQL's own pg_regress.
//!
//! Each file runs in a new database of one server that has the library preloaded, and its output is compared with
//! tests/pg_regress/expected. A file without expected output fails. Arguments select files by a part of their names.
//! With `CUSTODIAN_TEST_ACCEPT=1`, what comes out becomes the expected output: read the difference before you commit.
//!
//! It prints what cargo's own test harness prints, so that results are counted alike.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use integration::{Cluster, Program, Result, host};

/// Settings of the server beyond those of every cluster of the tests.
const CONF: &str = "
max_connections = 40
# Whether that is found depends on when the worker looks.
custodian.max_overdue = 0";

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            println!("\ntest result: FAILED. 0 passed; 1 failed");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pg_regress");
    let accept = std::env::var_os("CUSTODIAN_TEST_ACCEPT").is_some();
    let names = selected(&top)?;
    println!("\nrunning {} tests", names.len());
    let (mut passed, mut failed) = (0, 0);
    if !names.is_empty() {
        let node = Cluster::builder("regress")
            .preload("pg_custodian")
            .conf(CONF)
            .start()?;
        for name in &names {
            let problem = check(&node, &top, name, accept)?;
            match problem {
                None => passed += 1,
                Some(_) => failed += 1,
            }
            let outcome = if problem.is_none() { "ok" } else { "FAILED" };
            println!("test sql::{name} ... {outcome}");
            if let Some(problem) = problem {
                println!("{problem}");
            }
        }
    }
    let outcome = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {outcome}. {passed} passed; {failed} failed");
    Ok(failed == 0)
}

/// The names of the files to run, sorted.
fn selected(top: &Path) -> Result<Vec<String>> {
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with('-'))
        .collect();
    let mut names = Vec::new();
    for entry in fs::read_dir(top.join("sql"))? {
        let path = entry?.path();
        let stem = path
            .file_stem()
            .and_then(|s| s.to_str())
            .unwrap_or_default();
        let chosen = wanted.is_empty() || wanted.iter().any(|w| stem.contains(w.as_str()));
        if path.extension().is_some_and(|e| e == "sql") && chosen {
            names.push(stem.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Runs one file; what is wrong, if something is.
fn check(node: &Cluster, top: &Path, name: &str, accept: bool) -> Result<Option<String>> {
    let expected = top.join(format!("expected/{name}.out"));
    if !expected.exists() && !accept {
        let text = "there is no expected output: look at what CUSTODIAN_TEST_ACCEPT=1 writes";
        return Ok(Some(format!("{}: {text}", expected.display())));
    }
    // pg_regress runs as the server's user, who may not be able to enter the checkout.
    let work = node.dir().join(format!("regress-{name}"));
    for part in ["sql", "expected"] {
        make_dir(&work.join(part))?;
    }
    copy(&top.join(format!("sql/{name}.sql")), &work.join("sql"))?;
    let mut alternatives = vec![expected.clone()];
    alternatives.extend((1..=9).map(|n| top.join(format!("expected/{name}_{n}.out"))));
    for file in alternatives.iter().filter(|f| f.exists()) {
        copy(file, &work.join("expected"))?;
    }
    if !expected.exists() {
        host::write_private(&work.join(format!("expected/{name}.out")), "")?;
    }
    let output = pg_regress(node)?
        .arg(format!("--bindir={}", host::bindir()?.display()))
        .arg(format!("--inputdir={}", work.display()))
        .arg(format!("--outputdir={}", work.display()))
        .arg(format!("--host={}", node.socket_dir().display()))
        .arg(format!("--port={}", node.port()))
        .args(["--user=postgres", &format!("--dbname=regress_{name}"), name])
        .timeout(600)
        .run()?;
    let result = work.join(format!("results/{name}.out"));
    if output.success() {
        return Ok(None);
    }
    if accept && result.exists() {
        fs::copy(&result, &expected)?;
        println!("accepted: {}", expected.display());
        return Ok(None);
    }
    let diffs = fs::read_to_string(work.join("regression.diffs")).unwrap_or_default();
    let kept = keep(top, name, &result);
    Ok(Some(format!(
        "{}{diffs}{kept}",
        if diffs.is_empty() {
            output.to_string()
        } else {
            String::new()
        }
    )))
}

/// Copies what came out to where a person can look at it; a note on where that is.
fn keep(top: &Path, name: &str, result: &Path) -> String {
    let results = top.join("results");
    let target = results.join(format!("{name}.out"));
    match fs::create_dir_all(&results).and_then(|()| fs::copy(result, &target)) {
        Ok(_) => format!("the whole output is in {}", target.display()),
        Err(_) => String::new(),
    }
}

fn pg_regress(node: &Cluster) -> Result<Program> {
    let pgxs = PathBuf::from(host::pg_config("--pgxs")?);
    let program = pgxs.with_file_name("../test/regress/pg_regress");
    node.program(&program.display().to_string())
}

fn make_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path)?;
    for dir in [path, path.parent().unwrap_or(path)] {
        host::give(dir)?;
    }
    Ok(())
}

fn copy(file: &Path, dir: &Path) -> Result<()> {
    let name = file.file_name().unwrap_or_default();
    host::write_private(&dir.join(name), &fs::read_to_string(file)?)
}
