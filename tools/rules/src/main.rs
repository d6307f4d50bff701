//! `pg_custodian_rules`: checks a file of region rules, and says what it means for a peer, without a server. The rules are
//! read and judged by the same code as in the extension.

use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;

use guard::files::{Disk, read_text};
use guard::rules::{self, Rules};
use guard::verdict::{Address, Peer, Verdict, judge};

mod guard;

const USAGE: &str = "\
Usage:
  pg_custodian_rules check FILE
  pg_custodian_rules peer FILE [OPTION]...

check tells every wrong line of a file of region rules, and of the files that it includes.
peer tells what the rules say about a peer, and by which line:
  --address=ADDRESS   where it connects from; without it and a certificate: the unix socket
  --issuer=DN         issuer of its certificate, as pg_stat_ssl.issuer_dn shows it
  --subject=DN        subject of its certificate, as pg_stat_ssl.client_dn shows it
  --role=ROLE         the role that it connects as
  --node=ADDRESS      an address of the node, as a \"node\" line has it; may be given more than once
  --region=REGION     the node's region, as custodian.region has it; or, where that
                      is set in a file of the data directory, which copies of it take along:
  --copied-region=REGION

Exit status: 0 if the file is right and the peer inside, 1 if not, 2 for a wrong call.";

/// What ends the program early.
enum End {
    /// The call is wrong.
    Usage(String),
    /// The file is.
    Wrong(String),
}

#[derive(Default)]
struct Asked {
    address: Option<IpAddr>,
    issuer: Option<String>,
    subject: Option<String>,
    role: String,
    node: Vec<IpAddr>,
    region: Option<String>,
    /// Whether the region goes with copies of the data directory.
    copied: bool,
}

fn address(text: &str) -> Result<IpAddr, End> {
    text.parse()
        .map_err(|_| End::Usage(format!("\"{text}\" is no IP address")))
}

fn asked(options: &[String]) -> Result<Asked, End> {
    let mut asked = Asked::default();
    for option in options {
        let Some((name, value)) = option.split_once('=') else {
            return Err(End::Usage(format!(
                "\"{option}\" is no option with a value"
            )));
        };
        match name {
            "--address" => asked.address = Some(address(value)?),
            "--issuer" => asked.issuer = Some(value.to_owned()),
            "--subject" => asked.subject = Some(value.to_owned()),
            "--role" => value.clone_into(&mut asked.role),
            "--node" => asked.node.push(address(value)?),
            "--region" | "--copied-region" => {
                if asked.region.replace(value.to_owned()).is_some() {
                    return Err(End::Usage("a node has one region".to_owned()));
                }
                asked.copied = name == "--copied-region";
            }
            _ => return Err(End::Usage(format!("there is no option \"{name}\""))),
        }
    }
    Ok(asked)
}

fn read(file: &str) -> Result<(usize, Rules), End> {
    let path = Path::new(file);
    let text = match read_text(path) {
        Ok(Some(text)) => text,
        Ok(None) => return Err(End::Wrong(format!("{file} does not exist"))),
        Err(problem) => return Err(End::Wrong(format!("{file} {problem}"))),
    };
    let read = rules::parse_with(&text, &mut Disk::new(path));
    match read.rules() {
        Some(rules) => Ok((read.lines.len(), rules)),
        None => {
            let errors: Vec<String> = read
                .errors()
                .map(|(line, error)| {
                    format!(
                        "{}: line {}: {error}",
                        line.file.unwrap_or(file),
                        line.number
                    )
                })
                .collect();
            Err(End::Wrong(errors.join("\n")))
        }
    }
}

fn check(file: &str) -> Result<ExitCode, End> {
    let (lines, _) = read(file)?;
    println!("{file}: {lines} rules, no error");
    Ok(ExitCode::SUCCESS)
}

fn peer(file: &str, options: &[String]) -> Result<ExitCode, End> {
    let asked = asked(options)?;
    let (_, rules) = read(file)?;
    let own = rules.own(asked.region.as_deref(), asked.copied, &asked.node);
    let address = match asked.address {
        Some(address) => Address::Ip(address),
        None if asked.issuer.is_none() && asked.subject.is_none() => Address::Socket,
        None => Address::Unknown,
    };
    let judgement = judge(
        &rules,
        &own,
        &Peer {
            address,
            role: asked.role,
            issuer: asked.issuer,
            subject: asked.subject,
        },
    );
    println!("verdict: {}", judgement.verdict.as_str());
    if let Some(region) = &judgement.region {
        println!("region: {region}");
    }
    if let Some(organisation) = &judgement.organisation {
        println!("organisation: {organisation}");
    }
    if let Some(line) = &judgement.line {
        println!("line: {line}");
    }
    println!("reason: {}", judgement.reason);
    if !judgement.remedy.is_empty() {
        println!("remedy: {}", judgement.remedy);
    }
    Ok(if judgement.verdict == Verdict::Inside {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["--help" | "-?"] => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        ["check", file] => check(file),
        ["peer", file, ..] => peer(file, arguments.get(2..).unwrap_or_default()),
        _ => Err(End::Usage("what is to be done?".to_owned())),
    };
    match outcome {
        Ok(code) => code,
        Err(End::Wrong(problem)) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
        Err(End::Usage(problem)) => {
            eprintln!("pg_custodian_rules: {problem}\n\n{USAGE}");
            ExitCode::from(2)
        }
    }
}
