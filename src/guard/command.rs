//! Reads replication commands far enough to know what they would ship. Pure.
//!
//! The grammar is that of the server's `repl_gram.y` in versions 15 to 18. The server has parsed the command
//! already when the guard sees it; what the guard cannot parse, it refuses.

/// What a replication command asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    IdentifySystem,
    TimelineHistory,
    Show,
    ReadSlot,
    DropSlot {
        slot: String,
    },
    AlterSlot {
        slot: String,
    },
    BaseBackup,
    UploadManifest,
    CreatePhysicalSlot {
        slot: String,
    },
    CreateLogicalSlot {
        slot: String,
        plugin: String,
    },
    StartPhysical {
        slot: Option<String>,
    },
    StartLogical {
        slot: String,
        /// Options as given; for `pgoutput`, `publication_names` is one of them.
        options: Vec<(String, Option<String>)>,
    },
}

impl Command {
    /// Whether it neither ships data nor prepares for that: such a command may pass from anywhere.
    pub const fn is_harmless(&self) -> bool {
        matches!(
            self,
            Command::IdentifySystem | Command::TimelineHistory | Command::Show | Command::ReadSlot
        )
    }

    /// The command in a few words, without what a client could have smuggled into it.
    pub fn describe(&self) -> String {
        match self {
            Command::IdentifySystem => "IDENTIFY_SYSTEM".to_owned(),
            Command::TimelineHistory => "TIMELINE_HISTORY".to_owned(),
            Command::Show => "SHOW".to_owned(),
            Command::ReadSlot => "READ_REPLICATION_SLOT".to_owned(),
            Command::DropSlot { slot } => format!("DROP_REPLICATION_SLOT of slot \"{slot}\""),
            Command::AlterSlot { slot } => format!("ALTER_REPLICATION_SLOT of slot \"{slot}\""),
            Command::BaseBackup => "BASE_BACKUP".to_owned(),
            Command::UploadManifest => "UPLOAD_MANIFEST".to_owned(),
            Command::CreatePhysicalSlot { slot } => {
                format!("CREATE_REPLICATION_SLOT of physical slot \"{slot}\"")
            }
            Command::CreateLogicalSlot { slot, plugin } => {
                format!(
                    "CREATE_REPLICATION_SLOT of logical slot \"{slot}\" with plugin \"{plugin}\""
                )
            }
            Command::StartPhysical { slot: None } => "START_REPLICATION".to_owned(),
            Command::StartPhysical { slot: Some(slot) } => {
                format!("START_REPLICATION of physical slot \"{slot}\"")
            }
            Command::StartLogical { slot, .. } => {
                format!("START_REPLICATION of logical slot \"{slot}\"")
            }
        }
    }
}

/// A word of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// A keyword, an unquoted name, a number or a position: as written.
    Word(String),
    /// A name in double quotes.
    Name(String),
    /// A string in single quotes.
    Text(String),
    Mark(char),
}

fn quoted(chars: &mut std::iter::Peekable<std::str::Chars>, quote: char) -> Option<String> {
    let mut text = String::new();
    loop {
        match chars.next()? {
            c if c == quote => {
                if chars.next_if_eq(&quote).is_none() {
                    return Some(text);
                }
                text.push(quote);
            }
            c => text.push(c),
        }
    }
}

fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_ascii_whitespace() || c == '\u{b}' => {}
            '"' => tokens.push(Token::Name(quoted(&mut chars, '"')?)),
            '\'' => tokens.push(Token::Text(quoted(&mut chars, '\'')?)),
            '(' | ')' | ',' | ';' | '.' | '=' => tokens.push(Token::Mark(c)),
            c if c.is_alphanumeric() || c == '_' => {
                let mut word = String::from(c);
                // A position is written as 16/B374D848.
                while let Some(next) =
                    chars.next_if(|n| n.is_alphanumeric() || matches!(n, '_' | '$' | '/'))
                {
                    word.push(next);
                }
                tokens.push(Token::Word(word));
            }
            _ => return None,
        }
    }
    // One command; a semicolon may end it.
    if tokens.last() == Some(&Token::Mark(';')) {
        tokens.pop();
    }
    Some(tokens)
}

struct Reader<'a> {
    tokens: &'a [Token],
}

impl Reader<'_> {
    fn next(&mut self) -> Option<&Token> {
        let (first, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        Some(first)
    }

    fn keyword(&mut self, word: &str) -> bool {
        match self.tokens.first() {
            Some(Token::Word(found)) if found.eq_ignore_ascii_case(word) => {
                self.tokens = &self.tokens[1..];
                true
            }
            _ => false,
        }
    }

    fn mark(&mut self, mark: char) -> bool {
        if self.tokens.first() == Some(&Token::Mark(mark)) {
            self.tokens = &self.tokens[1..];
            true
        } else {
            false
        }
    }

    /// A name: unquoted ones are folded to lower case, as the server does.
    fn name(&mut self) -> Option<String> {
        match self.next()? {
            Token::Word(word) => Some(word.to_lowercase()),
            Token::Name(name) => Some(name.clone()),
            _ => None,
        }
    }

    fn position(&mut self) -> Option<()> {
        match self.next()? {
            Token::Word(word) if word.contains('/') => Some(()),
            _ => None,
        }
    }

    /// Options in parentheses, to the end.
    fn options(&mut self) -> Option<Vec<(String, Option<String>)>> {
        let mut options = Vec::new();
        if !self.mark('(') {
            return Some(options);
        }
        if self.mark(')') {
            return Some(options);
        }
        loop {
            let name = self.name()?;
            let value = match self.tokens.first()? {
                Token::Mark(_) => None,
                Token::Word(text) | Token::Name(text) | Token::Text(text) => {
                    let text = text.clone();
                    self.next();
                    Some(text)
                }
            };
            options.push((name, value));
            if self.mark(')') {
                return Some(options);
            }
            if !self.mark(',') {
                return None;
            }
        }
    }

    fn end(&self) -> Option<()> {
        self.tokens.is_empty().then_some(())
    }
}

/// Reads a replication command; `None` when it is none that the guard knows.
pub fn parse(text: &str) -> Option<Command> {
    let tokens = tokens(text)?;
    let mut reader = Reader { tokens: &tokens };
    let Some(Token::Word(first)) = reader.next().cloned() else {
        return None;
    };
    match first.to_ascii_uppercase().as_str() {
        "IDENTIFY_SYSTEM" => {
            reader.end()?;
            Some(Command::IdentifySystem)
        }
        "TIMELINE_HISTORY" => {
            reader.name()?;
            reader.end()?;
            Some(Command::TimelineHistory)
        }
        "SHOW" => {
            reader.name()?;
            while reader.mark('.') {
                reader.name()?;
            }
            reader.end()?;
            Some(Command::Show)
        }
        "READ_REPLICATION_SLOT" => {
            reader.name()?;
            reader.end()?;
            Some(Command::ReadSlot)
        }
        "DROP_REPLICATION_SLOT" => {
            let slot = reader.name()?;
            reader.keyword("WAIT");
            reader.end()?;
            Some(Command::DropSlot { slot })
        }
        "ALTER_REPLICATION_SLOT" => {
            let slot = reader.name()?;
            reader.options()?;
            reader.end()?;
            Some(Command::AlterSlot { slot })
        }
        // Its options change how much is sent, never that everything is.
        "BASE_BACKUP" => Some(Command::BaseBackup),
        "UPLOAD_MANIFEST" => {
            reader.end()?;
            Some(Command::UploadManifest)
        }
        "CREATE_REPLICATION_SLOT" => create_slot(&mut reader),
        "START_REPLICATION" => start(&mut reader),
        _ => None,
    }
}

fn create_slot(reader: &mut Reader) -> Option<Command> {
    let slot = reader.name()?;
    reader.keyword("TEMPORARY");
    if reader.keyword("PHYSICAL") {
        return Some(Command::CreatePhysicalSlot { slot });
    }
    if reader.keyword("LOGICAL") {
        let plugin = reader.name()?;
        return Some(Command::CreateLogicalSlot { slot, plugin });
    }
    None
}

fn start(reader: &mut Reader) -> Option<Command> {
    let slot = if reader.keyword("SLOT") {
        Some(reader.name()?)
    } else {
        None
    };
    if reader.keyword("LOGICAL") {
        let slot = slot?;
        reader.position()?;
        let options = reader.options()?;
        reader.end()?;
        return Some(Command::StartLogical { slot, options });
    }
    reader.keyword("PHYSICAL");
    reader.position()?;
    if reader.keyword("TIMELINE") {
        reader.name()?;
    }
    reader.end()?;
    Some(Command::StartPhysical { slot })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_the_servers_own_clients_send_is_understood() {
        for (text, expected) in [
            ("IDENTIFY_SYSTEM", Command::IdentifySystem),
            ("TIMELINE_HISTORY 2", Command::TimelineHistory),
            ("SHOW data_directory_mode", Command::Show),
            ("SHOW custodian.enforce", Command::Show),
            ("READ_REPLICATION_SLOT s", Command::ReadSlot),
            (
                "DROP_REPLICATION_SLOT \"a slot\" WAIT",
                Command::DropSlot {
                    slot: "a slot".into(),
                },
            ),
            (
                "BASE_BACKUP ( LABEL 'pg_basebackup base backup',  PROGRESS,  CHECKPOINT 'fast',  WAIT 0,  MANIFEST 'yes',  TARGET 'client')",
                Command::BaseBackup,
            ),
            // As clients of version 17 do for an incremental backup.
            ("UPLOAD_MANIFEST", Command::UploadManifest),
            (
                "BASE_BACKUP ( LABEL 'pg_basebackup base backup',  INCREMENTAL,  CHECKPOINT 'fast',  TARGET 'client')",
                Command::BaseBackup,
            ),
            (
                "CREATE_REPLICATION_SLOT \"pg_basebackup_12\" TEMPORARY PHYSICAL ( RESERVE_WAL)",
                Command::CreatePhysicalSlot {
                    slot: "pg_basebackup_12".into(),
                },
            ),
            (
                "CREATE_REPLICATION_SLOT \"sub\" LOGICAL pgoutput (SNAPSHOT 'nothing')",
                Command::CreateLogicalSlot {
                    slot: "sub".into(),
                    plugin: "pgoutput".into(),
                },
            ),
            (
                "START_REPLICATION 0/3000000 TIMELINE 1",
                Command::StartPhysical { slot: None },
            ),
            (
                "START_REPLICATION SLOT \"st\" 0/3000000 TIMELINE 1",
                Command::StartPhysical {
                    slot: Some("st".into()),
                },
            ),
            (
                "START_REPLICATION SLOT \"sub\" LOGICAL 0/0 (proto_version '3', publication_names '\"p\",\"q''s\"')",
                Command::StartLogical {
                    slot: "sub".into(),
                    options: vec![
                        ("proto_version".into(), Some("3".into())),
                        ("publication_names".into(), Some("\"p\",\"q's\"".into())),
                    ],
                },
            ),
            (
                "START_REPLICATION SLOT sub LOGICAL 0/0",
                Command::StartLogical {
                    slot: "sub".into(),
                    options: vec![],
                },
            ),
        ] {
            assert_eq!(parse(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn case_and_space_do_not_hide_a_command() {
        assert_eq!(parse("  base_backup\t"), Some(Command::BaseBackup));
        assert_eq!(
            parse("Start_Replication\n0/0;"),
            Some(Command::StartPhysical { slot: None })
        );
    }

    #[test]
    fn what_is_not_understood_is_nothing() {
        for text in [
            "",
            ";",
            "SELECT 1",
            "\"BASE_BACKUP\"",
            "START_REPLICATION",
            "START_REPLICATION SLOT x",
            "START_REPLICATION LOGICAL 0/0",
            "START_REPLICATION 0/0 SLOT x LOGICAL",
            "CREATE_REPLICATION_SLOT x",
            "CREATE_REPLICATION_SLOT x LOGICAL",
            "IDENTIFY_SYSTEM BASE_BACKUP",
            "SHOW x; BASE_BACKUP",
            "DROP_REPLICATION_SLOT \"unclosed",
            "START_REPLICATION SLOT x LOGICAL 0/0 (a 'unclosed)",
            "START_REPLICATION SLOT x LOGICAL 0/0 (a b c)",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn only_what_ships_nothing_is_harmless() {
        assert!(Command::IdentifySystem.is_harmless());
        assert!(!Command::BaseBackup.is_harmless());
        assert!(!Command::UploadManifest.is_harmless());
        assert!(!Command::StartPhysical { slot: None }.is_harmless());
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in any::<String>()) {
            let _ = parse(&text);
        }

        #[test]
        fn fragments_never_panic(parts in proptest::collection::vec(
            prop_oneof![
                Just("START_REPLICATION"), Just("SLOT"), Just("LOGICAL"), Just("PHYSICAL"), Just("0/0"),
                Just("("), Just(")"), Just(","), Just("'x'"), Just("\"x\""), Just("x"), Just("TIMELINE"),
                Just("CREATE_REPLICATION_SLOT"), Just("TEMPORARY"), Just("'"), Just("\""), Just(";")
            ], 0..14)) {
            let _ = parse(&parts.join(" "));
        }
    }
}
