//! Reads the rules file. Never fails as a whole: each line is a rule or an error of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::include::{self, Files, Include, Unread};
use super::lookup::{is_loopback, normalize, normalize_network};
use super::{File, Line, LineNumber, Place, Rule};

/// The longest name of a region, an organisation or a role.
const MAX_NAME: usize = 63;
/// More lines than this are an error: the file is read at every reload by the postmaster's children.
const MAX_LINES: usize = 100_000;
/// The longest text with all that it includes, in bytes: anybody may have one checked, and nothing interrupts that.
pub const MAX_BYTES: usize = 8 << 20;
/// Words in a line.
const MAX_WORDS: usize = 1024;
/// How deep regions may nest.
const MAX_DEPTH: usize = 16;

/// A word of a line. A quoted one is never a keyword.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Token {
    text: String,
    quoted: bool,
}

impl Token {
    fn is_keyword(&self, word: &str) -> bool {
        !self.quoted && self.text == word
    }
}

/// Splits a line into words. A word may have a part in double quotes; `""` inside quotes is one quote.
fn tokens(line: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut chars = line.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        match chars.peek() {
            None | Some('#') => return Ok(tokens),
            Some(_) => {}
        }
        let mut token = Token {
            text: String::new(),
            quoted: false,
        };
        while let Some(&next) = chars.peek() {
            if next.is_whitespace() || next == '#' {
                break;
            }
            chars.next();
            if next != '"' {
                token.text.push(next);
                continue;
            }
            token.quoted = true;
            loop {
                match chars.next() {
                    None => return Err("a double quote is not closed".to_owned()),
                    Some('"') if chars.next_if_eq(&'"').is_none() => break,
                    Some(inner) => token.text.push(inner),
                }
            }
        }
        if tokens.len() >= MAX_WORDS {
            return Err(format!("the line has more than {MAX_WORDS} words"));
        }
        tokens.push(token);
    }
}

fn name(token: &Token, what: &str) -> Result<String, String> {
    if token.text.is_empty() {
        return Err(format!("the {what} is empty"));
    }
    if token.text.len() > MAX_NAME {
        return Err(format!("the {what} is longer than {MAX_NAME} bytes"));
    }
    if token.text.chars().any(char::is_control) {
        return Err(format!("the {what} holds a control character"));
    }
    Ok(token.text.clone())
}

/// Regions are lower-case words, so that one is never written in two ways; tags name them likewise.
fn region(text: &str) -> Result<String, String> {
    let valid = !text.is_empty()
        && text.len() <= MAX_NAME
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-');
    if valid {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "\"{text}\" is no name of a region: use lower-case letters, digits, \"_\" and \"-\""
        ))
    }
}

fn address(text: &str) -> Result<IpAddr, String> {
    text.parse()
        .map(normalize)
        .map_err(|_| format!("\"{text}\" is no IP address"))
}

fn network(text: &str) -> Result<IpNet, String> {
    let network: IpNet = match text.parse() {
        Ok(network) => network,
        Err(_) => match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address),
            Err(_) => {
                return Err(format!(
                    "\"{text}\" is no network: write it as 192.0.2.0/24 or 2001:db8::/32"
                ));
            }
        },
    };
    if network.trunc() != network {
        return Err(format!(
            "\"{text}\" has bits set to the right of its mask: did you mean {}?",
            network.trunc()
        ));
    }
    Ok(normalize_network(network))
}

fn place(tokens: &[Token]) -> Result<Place, String> {
    let [first, rest @ ..] = tokens else {
        return Err("the region is missing".to_owned());
    };
    let organisation = match rest {
        [] => None,
        [token] => Some(name(token, "organisation")?),
        [_, extra, ..] => return Err(format!("\"{}\" is one word too many", extra.text)),
    };
    Ok(Place {
        region: region(&first.text)?,
        organisation,
    })
}

fn distinguished_name(token: &Token) -> Result<String, String> {
    if token.text.is_empty() {
        return Err("the distinguished name is empty".to_owned());
    }
    if token.text.chars().any(char::is_control) {
        return Err("the distinguished name holds a control character".to_owned());
    }
    Ok(token.text.clone())
}

fn rule(kind: &Token, arguments: &[Token]) -> Result<Rule, String> {
    let first = |what: &str| {
        arguments
            .first()
            .ok_or_else(|| format!("the {what} is missing"))
    };
    let rest = arguments.get(1..).unwrap_or_default();
    let only = |rule: Rule| match rest.first() {
        None => Ok(rule),
        Some(extra) => Err(format!("\"{}\" is one word too many", extra.text)),
    };
    if kind.quoted {
        return Err(format!("\"{}\" is no type of rule", kind.text));
    }
    match kind.text.as_str() {
        "region" => {
            let name = region(&first("name of the region")?.text)?;
            let parent = match rest {
                [] => None,
                [word, parent] if word.is_keyword("in") => Some(region(&parent.text)?),
                _ => return Err("a region is written as: region NAME [in PARENT]".to_owned()),
            };
            Ok(Rule::Region { name, parent })
        }
        "node" => {
            let address = address(&first("address")?.text)?;
            if is_loopback(address) {
                return Err(
                    "a loopback address is the same on every node: set custodian.region instead"
                        .to_owned(),
                );
            }
            Ok(Rule::Node {
                address,
                place: place(rest)?,
            })
        }
        "network" => {
            let network = network(&first("network")?.text)?;
            if is_loopback(network.network()) && is_loopback(network.broadcast()) {
                return Err(
                    "a loopback address has no region: name the roles that may use it in \"local\" lines"
                        .to_owned(),
                );
            }
            Ok(Rule::Network {
                network,
                place: place(rest)?,
            })
        }
        "issuer" => Ok(Rule::Issuer {
            name: distinguished_name(first("distinguished name of the issuer")?)?,
            place: place(rest)?,
        }),
        "subject" => Ok(Rule::Subject {
            name: distinguished_name(first("distinguished name of the subject")?)?,
            place: place(rest)?,
        }),
        "pooler" => only(Rule::Pooler {
            network: network(&first("network")?.text)?,
        }),
        "local" => {
            let token = first("role")?;
            let role = if token.is_keyword("all") {
                None
            } else {
                Some(name(token, "role")?)
            };
            only(Rule::Local { role })
        }
        "residency" => {
            let mut regions = Vec::new();
            for part in first("list of regions")?.text.split(',') {
                let part = region(part)?;
                if regions.contains(&part) {
                    return Err(format!("region \"{part}\" is named twice"));
                }
                regions.push(part);
            }
            only(Rule::Residency { regions })
        }
        "setting" => {
            let name = name(first("name of the setting")?, "name of the setting")?;
            let [value, rest @ ..] = rest else {
                return Err("the value of the setting is missing".to_owned());
            };
            Ok(Rule::Setting {
                name,
                value: value.text.clone(),
                place: place(rest)?,
            })
        }
        "tablespace" => {
            let location = first("directory")?.text.clone();
            if !location.starts_with('/') {
                return Err("the directory of a tablespace is an absolute path".to_owned());
            }
            Ok(Rule::Tablespace {
                location,
                place: place(rest)?,
            })
        }
        "extension" => {
            let name = name(first("name of the extension")?, "name of the extension")?;
            only(Rule::Extension { name })
        }
        "include" | "include_if_exists" | "include_dir" => {
            let path = first("file")?.text.clone();
            match Include::of(&kind.text) {
                Some(_) if path.is_empty() => Err("the name of the file is empty".to_owned()),
                Some(how) => only(Rule::Include { how, path }),
                None => Err("the file is missing".to_owned()),
            }
        }
        other => Err(format!(
            "\"{other}\" is no type of rule: use region, node, network, issuer, subject, pooler, local, residency, setting, tablespace, extension, include, include_if_exists or include_dir"
        )),
    }
}

/// What may be said only once, and the line that said it first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Unique {
    Region(String),
    Node(IpAddr),
    Network(IpNet),
    Issuer(String),
    Subject(String),
    Pooler(IpNet),
    Local(Option<String>),
    Residency,
    Setting(String, String),
    Tablespace(String),
    Extension(String),
    Include(Include, String),
}

impl Unique {
    fn of(rule: &Rule) -> Unique {
        match rule {
            Rule::Region { name, .. } => Unique::Region(name.clone()),
            Rule::Node { address, .. } => Unique::Node(*address),
            Rule::Network { network, .. } => Unique::Network(*network),
            Rule::Issuer { name, .. } => Unique::Issuer(name.clone()),
            Rule::Subject { name, .. } => Unique::Subject(name.clone()),
            Rule::Pooler { network } => Unique::Pooler(*network),
            Rule::Local { role } => Unique::Local(role.clone()),
            Rule::Residency { .. } => Unique::Residency,
            Rule::Setting { name, value, .. } => Unique::Setting(name.clone(), value.clone()),
            Rule::Tablespace { location, .. } => Unique::Tablespace(location.clone()),
            Rule::Extension { name } => Unique::Extension(name.clone()),
            Rule::Include { how, path } => Unique::Include(*how, path.clone()),
        }
    }
}

/// Errors that only the whole file shows: something said twice, or a region that does not exist.
fn check_whole(lines: &mut [Line]) {
    let mut seen: BTreeMap<Unique, LineNumber> = BTreeMap::new();
    let mut parents: BTreeMap<String, Option<String>> = BTreeMap::new();
    for line in lines.iter_mut() {
        let Ok(rule) = &line.rule else { continue };
        if let Some(first) = seen.get(&Unique::of(rule)) {
            line.rule = Err(format!("this was said in line {first} already"));
            continue;
        }
        seen.insert(Unique::of(rule), line.number);
        if let Rule::Region { name, parent } = rule {
            parents.insert(name.clone(), parent.clone());
        }
    }
    for line in lines.iter_mut() {
        let Ok(rule) = &line.rule else { continue };
        let named: Vec<&str> = match rule {
            Rule::Region { parent, .. } => parent.as_deref().into_iter().collect(),
            Rule::Residency { regions } => regions.iter().map(String::as_str).collect(),
            other => other
                .place()
                .map(|place| place.region.as_str())
                .into_iter()
                .collect(),
        };
        let error = if let Some(missing) = named.iter().find(|name| !parents.contains_key(**name)) {
            Some(format!(
                "there is no region \"{missing}\": add a line \"region {missing}\""
            ))
        } else if let Rule::Region { name, .. } = rule {
            nested_badly(name, &parents)
        } else {
            None
        };
        if let Some(error) = error {
            line.rule = Err(error);
        }
    }
}

/// What is wrong with what a region lies in; `None` when nothing is, or when it is wrong with one that it lies in.
fn nested_badly(name: &str, parents: &BTreeMap<String, Option<String>>) -> Option<String> {
    let mut passed = BTreeSet::new();
    let mut current = name;
    while let Some(Some(parent)) = parents.get(current) {
        if parent == name {
            return Some(format!("region \"{name}\" lies in itself"));
        }
        if !passed.insert(parent.as_str()) {
            return None;
        }
        if passed.len() > MAX_DEPTH {
            return Some(format!(
                "region \"{name}\" lies in more than {MAX_DEPTH} others"
            ));
        }
        current = parent;
    }
    None
}

/// Reads a text that includes nothing. Lines that are empty or only a comment are left out.
pub fn parse(text: &str) -> File {
    parse_with(text, &mut Unread)
}

/// Reads a rules file and what it includes.
pub fn parse_with(text: &str, files: &mut dyn Files) -> File {
    let mut reading = Reading {
        lines: Vec::new(),
        bytes: 0,
        open: Vec::new(),
        files,
    };
    reading.text(text, None, 0);
    let mut lines = reading.lines;
    check_whole(&mut lines);
    File { lines }
}

/// Files that are being read.
struct Reading<'a> {
    lines: Vec<Line>,
    /// Of all files so far.
    bytes: usize,
    /// The files that are being read, each included by the one before.
    open: Vec<&'static str>,
    files: &'a mut dyn Files,
}

impl Reading<'_> {
    fn wrong(&mut self, number: LineNumber, error: String) {
        self.lines.push(Line {
            number,
            kind: String::new(),
            arguments: Vec::new(),
            rule: Err(error),
        });
    }

    fn text(&mut self, text: &str, file: Option<&'static str>, depth: u8) {
        let at = |number| LineNumber { file, number };
        self.bytes = self.bytes.saturating_add(text.len());
        if self.bytes > MAX_BYTES {
            self.wrong(at(1), format!("the file is longer than {MAX_BYTES} bytes"));
            return;
        }
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for (number, line) in (1..).zip(text.lines()) {
            if self.lines.len() >= MAX_LINES {
                self.wrong(
                    at(number),
                    format!("the file has more than {MAX_LINES} rules"),
                );
                return;
            }
            self.line(line, at(number), depth);
        }
    }

    fn line(&mut self, line: &str, number: LineNumber, depth: u8) {
        let tokens = match tokens(line) {
            Ok(tokens) => tokens,
            Err(error) => {
                self.lines.push(Line {
                    number,
                    kind: line.split_whitespace().next().unwrap_or("").to_owned(),
                    arguments: Vec::new(),
                    rule: Err(error),
                });
                return;
            }
        };
        let Some((kind, arguments)) = tokens.split_first() else {
            return;
        };
        let mut line = Line {
            number,
            kind: kind.text.clone(),
            arguments: arguments.iter().map(|token| token.text.clone()).collect(),
            rule: rule(kind, arguments),
        };
        let mut found = Vec::new();
        if let Ok(Rule::Include { how, path }) = &line.rule {
            let read = if depth >= include::MAX_DEPTH {
                Err(format!(
                    "files include one another more than {} deep",
                    include::MAX_DEPTH
                ))
            } else if self.bytes > MAX_BYTES {
                Err(format!(
                    "it is not read: all before it is longer than {MAX_BYTES} bytes"
                ))
            } else {
                self.files.read(*how, path, number.file)
            };
            let itself = |files: &include::Found| {
                let open = files.iter().map(|(name, _)| name);
                open.into_iter()
                    .find(|name| self.open.contains(&name.as_str()))
                    .cloned()
            };
            match read {
                Ok(files) => match itself(&files) {
                    None => found = files,
                    Some(name) => line.rule = Err(format!("file \"{name}\" includes itself")),
                },
                Err(error) => line.rule = Err(error),
            }
        }
        self.lines.push(line);
        for (name, text) in found {
            let name = include::name(&name);
            self.open.push(name);
            self.text(&text, Some(name), depth + 1);
            self.open.pop();
        }
    }
}
