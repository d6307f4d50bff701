//! Reads a libpq connection string far enough to know where it leads. Pure.
//!
//! Both forms are understood: `key=value` words and URIs, with several hosts in each. What libpq would look
//! up elsewhere (a service file, a name in DNS) leads nowhere that the guard could judge.
//! Source: PostgreSQL documentation, "Connection Strings".

use std::net::IpAddr;

/// One of the places a connection string leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    Address(IpAddr),
    /// A directory of a unix socket, an abstract socket, or nothing at all: the server's default.
    Socket,
    /// A name that would have to be looked up.
    Name(String),
}

/// Why a connection string cannot be judged. None of the texts holds a part of it but keywords.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unclear {
    /// It is not a connection string.
    Syntax(&'static str),
    /// It names a service, whose definition is in a file that the guard does not read.
    Service,
    /// The numbers of `host` and `hostaddr` differ.
    Count,
}

impl Unclear {
    pub fn reason(&self) -> String {
        match self {
            Unclear::Syntax(what) => format!("The connection string cannot be read: {what}."),
            Unclear::Service => {
                "The connection string names a service, so the place it leads to is in another file."
                    .to_owned()
            }
            Unclear::Count => {
                "The connection string has different numbers of host and hostaddr entries.".to_owned()
            }
        }
    }
}

/// The keywords that matter here.
#[derive(Default)]
struct Settings {
    host: Option<String>,
    hostaddr: Option<String>,
    service: bool,
}

impl Settings {
    /// libpq lets the last of several equal keywords win.
    fn set(&mut self, key: &str, value: String) {
        match key {
            "host" => self.host = Some(value),
            "hostaddr" => self.hostaddr = Some(value),
            "service" | "servicefile" => self.service = true,
            _ => {}
        }
    }
}

fn host(text: &str) -> Host {
    // libpq takes an empty host, a path and an abstract socket (@) for unix sockets.
    if text.is_empty() || text.starts_with('/') || text.starts_with('@') {
        return Host::Socket;
    }
    address(text).map_or_else(|| Host::Name(text.to_owned()), Host::Address)
}

/// The host, if it looks like the name of one. What does not may be a part of a password that was not encoded
/// as it should be, and is not to be shown.
pub fn host_name(host: &str) -> Option<&str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    host.chars().all(plain).then_some(host)
}

/// A literal address, with or without a zone.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.split_once('%').map_or(text, |(address, _)| address);
    text.parse().ok()
}

/// The places a connection string leads to, in order; at least one.
pub fn hosts(conninfo: &str) -> Result<Vec<Host>, Unclear> {
    // Characters that some locales take for white space, or that were no valid text.
    if conninfo.contains(['\u{85}', '\u{a0}', '\u{fffd}', '\0']) {
        return Err(Unclear::Syntax("it holds an unexpected character"));
    }
    let mut settings = Settings::default();
    if let Some(rest) = conninfo
        .strip_prefix("postgresql://")
        .or_else(|| conninfo.strip_prefix("postgres://"))
    {
        uri(rest, &mut settings)?;
    } else {
        words(conninfo, &mut settings)?;
    }
    if settings.service {
        return Err(Unclear::Service);
    }
    let list = |text: &Option<String>| -> Vec<String> {
        text.as_deref()
            .filter(|text| !text.is_empty())
            .map(|text| text.split(',').map(str::to_owned).collect())
            .unwrap_or_default()
    };
    let (names, addresses) = (list(&settings.host), list(&settings.hostaddr));
    if addresses.is_empty() {
        if names.is_empty() {
            return Ok(vec![Host::Socket]);
        }
        return Ok(names.iter().map(|name| host(name)).collect());
    }
    if !names.is_empty() && names.len() != addresses.len() {
        return Err(Unclear::Count);
    }
    // hostaddr is where the connection goes; host is then only a name to verify. An empty one leaves host.
    Ok(addresses
        .iter()
        .enumerate()
        .map(|(at, text)| match address(text) {
            Some(address) => Host::Address(address),
            None if text.is_empty() => names.get(at).map_or(Host::Socket, |name| host(name)),
            None => Host::Name(text.clone()),
        })
        .collect())
}

/// What libpq takes for white space.
fn is_space(c: char) -> bool {
    c.is_ascii_whitespace() || c == '\u{b}'
}

/// `key = value` words. A value may be in single quotes; a backslash takes the next character as it is.
fn words(text: &str, settings: &mut Settings) -> Result<(), Unclear> {
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| is_space(*c)).is_some() {}
        if chars.peek().is_none() {
            return Ok(());
        }
        let mut key = String::new();
        while let Some(c) = chars.next_if(|c| *c != '=' && !is_space(*c)) {
            key.push(c);
        }
        if !key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') {
            return Err(Unclear::Syntax("a keyword holds an unexpected character"));
        }
        while chars.next_if(|c| is_space(*c)).is_some() {}
        if chars.next() != Some('=') {
            return Err(Unclear::Syntax("a keyword has no \"=\" after it"));
        }
        while chars.next_if(|c| is_space(*c)).is_some() {}
        let mut value = String::new();
        if chars.next_if_eq(&'\'').is_some() {
            loop {
                match chars.next() {
                    None => return Err(Unclear::Syntax("a single quote is not closed")),
                    Some('\'') => break,
                    Some('\\') => value.extend(chars.next()),
                    Some(c) => value.push(c),
                }
            }
        } else {
            while let Some(c) = chars.next_if(|c| !is_space(*c)) {
                if c == '\\' {
                    value.extend(chars.next());
                } else {
                    value.push(c);
                }
            }
        }
        settings.set(&key, value);
    }
}

fn percent(text: &str) -> Result<String, Unclear> {
    const WRONG: Unclear =
        Unclear::Syntax("a percent sign is not followed by two hexadecimal digits");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || {
            rest.next()
                .and_then(|digit| char::from(digit).to_digit(16))
                .ok_or(WRONG)
        };
        let value = digit()? * 16 + digit()?;
        if value == 0 {
            return Err(Unclear::Syntax("it holds a null byte"));
        }
        bytes.push(value as u8);
    }
    String::from_utf8(bytes).map_err(|_| Unclear::Syntax("it is not UTF-8"))
}

/// What follows `postgresql://`: `[user[:password]@][host[:port][,...]][/dbname][?key=value&...]`.
fn uri(text: &str, settings: &mut Settings) -> Result<(), Unclear> {
    // libpq takes whatever stands before the first "@" for the user's part, unless a "/" comes first.
    let text = match text.find(['@', '/']) {
        Some(at) if text[at..].starts_with('@') => &text[at + 1..],
        _ => text,
    };
    let end = text.find(['/', '?']).unwrap_or(text.len());
    let (places, rest) = text.split_at(end);
    let query = rest.split_once('?').map_or("", |(_, query)| query);
    if !places.is_empty() {
        let mut names = Vec::new();
        for place in places.split(',') {
            let name = if let Some(bracketed) = place.strip_prefix('[') {
                let (name, port) = bracketed
                    .split_once(']')
                    .ok_or(Unclear::Syntax("a square bracket is not closed"))?;
                if !(port.is_empty() || port.starts_with(':')) {
                    return Err(Unclear::Syntax("something follows a square bracket"));
                }
                name
            } else {
                place.split(':').next().unwrap_or_default()
            };
            let name = percent(name)?;
            if name.contains(',') {
                return Err(Unclear::Syntax("a host holds an encoded comma"));
            }
            names.push(name);
        }
        settings.host = Some(names.join(","));
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair
            .split_once('=')
            .ok_or(Unclear::Syntax("a parameter of the URI has no \"=\""))?;
        settings.set(&percent(key)?, percent(value)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> Host {
        Host::Address(text.parse().unwrap())
    }

    fn name(text: &str) -> Host {
        Host::Name(text.to_owned())
    }

    #[test]
    fn key_value_strings() {
        for (text, expected) in [
            ("host=10.1.2.3 dbname=x", vec![ip("10.1.2.3")]),
            ("dbname=x", vec![Host::Socket]),
            ("", vec![Host::Socket]),
            ("host = 'db.example' port=5432", vec![name("db.example")]),
            ("host=/tmp", vec![Host::Socket]),
            ("host=@abstract", vec![Host::Socket]),
            ("host=10.1.2.3,::1", vec![ip("10.1.2.3"), ip("::1")]),
            ("host=fe80::1%eth0", vec![ip("fe80::1")]),
            ("host=a hostaddr=10.1.2.3", vec![ip("10.1.2.3")]),
            (
                "host=a,10.9.9.9 hostaddr='10.1.2.3,'",
                vec![ip("10.1.2.3"), ip("10.9.9.9")],
            ),
            (
                "host=10.1.2.3 host=evil.example",
                vec![name("evil.example")],
            ),
            (
                "password='a host=10.1.2.3 \\' ' host=evil.example",
                vec![name("evil.example")],
            ),
            ("host=10.1.2.3,", vec![ip("10.1.2.3"), Host::Socket]),
            ("dbname=x\u{b}host=evil.example", vec![name("evil.example")]),
            ("host='10.1\\.2.3'", vec![ip("10.1.2.3")]),
        ] {
            assert_eq!(hosts(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn uris() {
        for (text, expected) in [
            ("postgresql://10.1.2.3/db", vec![ip("10.1.2.3")]),
            ("postgres://u:p@10.1.2.3:5432/db?x=y", vec![ip("10.1.2.3")]),
            ("postgresql://", vec![Host::Socket]),
            ("postgresql:///db?host=10.1.2.3", vec![ip("10.1.2.3")]),
            (
                "postgresql://10.1.2.3/db?host=evil.example",
                vec![name("evil.example")],
            ),
            (
                "postgresql://10.1.2.3/db?h%6Fst=evil.example",
                vec![name("evil.example")],
            ),
            (
                "postgresql://u@[2001:db8::1]:5432,db.example:1/x",
                vec![ip("2001:db8::1"), name("db.example")],
            ),
            ("postgresql://%2Ftmp/db", vec![Host::Socket]),
            // What looks like a parameter is a user's name for libpq.
            (
                "postgresql://10.1.2.3?x=y@evil.example/db",
                vec![name("evil.example")],
            ),
            ("postgresql://10.1.2.3?x=/y@evil", vec![ip("10.1.2.3")]),
            ("postgresql://a/db?hostaddr=10.1.2.3", vec![ip("10.1.2.3")]),
        ] {
            assert_eq!(hosts(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn a_part_of_a_password_is_not_taken_for_a_host() {
        let found = hosts("postgresql://app:p@ss@db.example/x").unwrap();
        assert_eq!(found, [name("ss@db.example")]);
        assert_eq!(host_name("ss@db.example"), None);
        assert_eq!(host_name("db-1.example"), Some("db-1.example"));
    }

    #[test]
    fn what_cannot_be_judged() {
        assert_eq!(hosts("service=prod"), Err(Unclear::Service));
        assert_eq!(
            hosts("postgresql://10.1.2.3/?service=prod"),
            Err(Unclear::Service)
        );
        assert_eq!(hosts("host=a,b hostaddr=10.1.2.3"), Err(Unclear::Count));
        for text in [
            "host",
            "x=1 \u{a0}host=10.1.2.3",
            "hóst=10.1.2.3",
            "host='10.1.2.3",
            "postgresql://[::1/db",
            "postgresql://[::1]x/db",
            "postgresql://a/db?host",
            "postgresql://a%zz/",
            "postgresql://a%2Cb/",
            "postgresql://a%00/",
        ] {
            assert!(matches!(hosts(text), Err(Unclear::Syntax(_))), "{text}");
        }
    }

    proptest! {
        #[test]
        fn reading_never_panics(text in any::<String>()) {
            let _ = hosts(&text);
            let _ = hosts(&format!("postgresql://{text}"));
        }

        #[test]
        fn a_string_that_can_be_read_leads_somewhere(text in "[a-z0-9=,:/@%?&' \\\\\\[\\]]{0,40}") {
            for text in [text.clone(), format!("postgres://{text}")] {
                if let Ok(hosts) = hosts(&text) {
                    prop_assert!(!hosts.is_empty());
                }
            }
        }
    }
}
