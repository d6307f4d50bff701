//! Files that lines of the rules file include, as in `pg_hba.conf` from PostgreSQL 16 on. Who reads them is somebody
//! else's matter ([`Files`]), so that the last good rules can be kept with all that they included. Pure.

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{File, parse_with};

/// How deep files may include one another.
pub const MAX_DEPTH: u8 = 10;

/// What a line includes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Include {
    /// `include`: one file, which must be there.
    File,
    /// `include_if_exists`: one file, if it is there.
    IfExists,
    /// `include_dir`: the files of a directory whose names end in `.conf` and begin with no dot, in the order of their
    /// names.
    Directory,
}

impl Include {
    /// What the first word of a line stands for.
    pub fn of(kind: &str) -> Option<Include> {
        Some(match kind {
            "include" => Include::File,
            "include_if_exists" => Include::IfExists,
            "include_dir" => Include::Directory,
            _ => return None,
        })
    }
}

/// Files with their names, in order.
pub type Found = Vec<(String, String)>;

/// Who reads the files that lines include.
pub trait Files {
    /// The files that a line of the file `from` (`None`: the rules file itself) includes by `path`; or what is wrong.
    ///
    /// # Errors
    /// When one cannot be read, in words that end the sentence of the line's error.
    fn read(&mut self, how: Include, path: &str, from: Option<&str>) -> Result<Found, String>;
}

/// Reads none: for a text that is only checked.
pub struct Unread;

impl Files for Unread {
    fn read(&mut self, _how: Include, _path: &str, _from: Option<&str>) -> Result<Found, String> {
        Err("files that lines include are not read here: check each by itself, or the server's own with custodian.region_rules".to_owned())
    }
}

/// A rules file with what its lines included when it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    rules: String,
    included: Vec<Found>,
}

impl Files for std::vec::IntoIter<Found> {
    fn read(&mut self, _how: Include, _path: &str, _from: Option<&str>) -> Result<Found, String> {
        self.next()
            .ok_or_else(|| "what it included was not kept".to_owned())
    }
}

/// Notes what another reader gives.
pub struct Noting<F> {
    pub files: F,
    included: Vec<Found>,
}

impl<F> Noting<F> {
    pub const fn new(files: F) -> Self {
        Noting {
            files,
            included: Vec::new(),
        }
    }

    /// A text from which [`parse_kept`] makes the same rules without reading files: the rules file itself where its lines
    /// include nothing.
    pub fn kept(self, rules: &str) -> String {
        if self.included.is_empty() {
            return rules.to_owned();
        }
        let kept = Kept {
            rules: rules.to_owned(),
            included: self.included,
        };
        // Strings and lists always can be written.
        serde_json::to_string(&kept).unwrap_or_default()
    }
}

impl<F: Files> Files for Noting<F> {
    fn read(&mut self, how: Include, path: &str, from: Option<&str>) -> Result<Found, String> {
        let found = self.files.read(how, path, from)?;
        self.included.push(found.clone());
        Ok(found)
    }
}

/// Reads what [`Noting::kept`] gave.
pub fn parse_kept(text: &str) -> File {
    // No line of a rules file begins like this.
    if text.starts_with('{')
        && let Ok(kept) = serde_json::from_str::<Kept>(text)
    {
        return parse_with(&kept.rules, &mut kept.included.into_iter());
    }
    parse_with(text, &mut Unread)
}

thread_local! {
    static NAMES: RefCell<BTreeSet<&'static str>> = const { RefCell::new(BTreeSet::new()) };
}

/// The name of a file, kept for the life of the process: there are few, and line numbers stay small with it.
pub fn name(file: &str) -> &'static str {
    NAMES.with_borrow_mut(|names| match names.get(file) {
        Some(known) => known,
        None => {
            let kept: &'static str = Box::leak(file.to_owned().into_boxed_str());
            names.insert(kept);
            kept
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::rules::{MAX_BYTES, parse};

    /// Files by name; a path that ends in `/` is a directory.
    struct Disk(Vec<(&'static str, &'static str)>);

    impl Files for Disk {
        fn read(&mut self, how: Include, path: &str, _from: Option<&str>) -> Result<Found, String> {
            let own = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
            let found: Found = match how {
                Include::Directory => {
                    let inside = |(name, _): &&(&str, &str)| name.starts_with(path);
                    self.0.iter().filter(inside).map(own).collect()
                }
                _ => {
                    let is = |(name, _): &&(&str, &str)| *name == path;
                    self.0.iter().filter(is).map(own).collect()
                }
            };
            if found.is_empty() && how == Include::File {
                return Err(format!("\"{path}\" is not there"));
            }
            Ok(found)
        }
    }

    fn lines(file: &File) -> Vec<(String, bool)> {
        let lines = file.lines.iter();
        lines
            .map(|line| (format!("{} {}", line.number, line.kind), line.rule.is_ok()))
            .collect()
    }

    const MAIN: &str = "region cn\ninclude eu.conf\ninclude_if_exists none.conf\ninclude_dir more/\nnetwork 10.0.0.0/8 eu\n";

    fn disk() -> Disk {
        Disk(vec![
            ("eu.conf", "# europe\nregion eu\ninclude de.conf"),
            ("de.conf", "region de in eu"),
            ("more/a.conf", "network 10.1.0.0/16 de"),
            ("more/b.conf", "network 10.2.0.0/16 cn"),
        ])
    }

    #[test]
    fn included_lines_count_in_their_place_and_know_their_file() {
        let file = parse_with(MAIN, &mut disk());
        let expected = [
            "1 region",
            "2 include",
            "2 of \"eu.conf\" region",
            "3 of \"eu.conf\" include",
            "1 of \"de.conf\" region",
            "3 include_if_exists",
            "4 include_dir",
            "1 of \"more/a.conf\" network",
            "1 of \"more/b.conf\" network",
            "5 network",
        ];
        let expected: Vec<_> = expected.map(|line| (line.to_owned(), true)).into();
        assert_eq!(lines(&file), expected);
        let rules = file.rules().unwrap();
        let evidence = rules.by_address("10.1.2.3".parse().unwrap()).unwrap();
        assert_eq!(evidence.line.to_string(), "1 of \"more/a.conf\"");
        assert!(rules.within("de", "eu"));
    }

    #[test]
    fn an_error_in_an_included_file_is_told_with_its_place_and_nothing_is_used() {
        let mut disk = disk();
        disk.0[1].1 = "region de in nowhere";
        let file = parse_with(MAIN, &mut disk);
        assert!(file.rules().is_none());
        let (line, _) = file.errors().next().unwrap();
        assert_eq!(line.to_string(), "1 of \"de.conf\"");
    }

    #[test]
    fn what_cannot_be_read_is_an_error_of_the_line() {
        for (text, wrong) in [
            ("include gone.conf", "\"gone.conf\" is not there"),
            ("include", "the file is missing"),
            ("include a b", "\"b\" is one word too many"),
        ] {
            let file = parse_with(text, &mut disk());
            let all: Vec<_> = file.errors().map(|(_, error)| error.to_owned()).collect();
            assert_eq!(all, [wrong], "{text}");
        }
        assert!(parse("include eu.conf").errors().next().is_some());
    }

    #[test]
    fn files_that_include_themselves_end() {
        let mut disk = Disk(vec![("a", "include a\ninclude a")]);
        let file = parse_with("include a", &mut disk);
        let all: Vec<_> = file.errors().map(|(_, error)| error).collect();
        assert_eq!(all, ["file \"a\" includes itself"; 2]);
    }

    #[test]
    fn files_include_one_another_so_deep_and_no_deeper() {
        let texts: Vec<String> = (1..=12).map(|next| format!("include {next}")).collect();
        struct Chain(Vec<String>);
        impl Files for Chain {
            fn read(&mut self, _: Include, path: &str, _: Option<&str>) -> Result<Found, String> {
                let at: usize = path.parse().map_err(|_| "no number".to_owned())?;
                Ok(self
                    .0
                    .get(at)
                    .map(|text| (path.to_owned(), text.clone()))
                    .into_iter()
                    .collect())
            }
        }
        let chain = |last: usize| Chain(texts[..last].to_vec());
        let errors = |last: usize| {
            let file = parse_with("include 0", &mut chain(last));
            let all: Vec<_> = file.errors().map(|(_, error)| error.to_owned()).collect();
            all
        };
        assert_eq!(errors(9), [] as [String; 0]);
        assert_eq!(errors(11), ["files include one another more than 10 deep"]);
    }

    #[test]
    fn nothing_more_is_read_once_there_is_too_much() {
        struct Large(usize, String);
        impl Files for Large {
            fn read(&mut self, _: Include, path: &str, _: Option<&str>) -> Result<Found, String> {
                self.0 += 1;
                Ok(vec![(path.to_owned(), self.1.clone())])
            }
        }
        let mut large = Large(0, "#".repeat(MAX_BYTES / 2));
        let main: String = (0..9).map(|n| format!("include {n}\n")).collect();
        let file = parse_with(&main, &mut large);
        assert_eq!(large.0, 2);
        assert!(file.errors().count() > 7);
        assert!(file.rules().is_none());
    }

    #[test]
    fn rules_are_kept_with_all_that_they_included() {
        let mut noting = Noting::new(disk());
        let file = parse_with(MAIN, &mut noting);
        let kept = noting.kept(MAIN);
        assert_eq!(parse_kept(&kept), file);
        let plain = "region cn\n";
        assert_eq!(Noting::new(disk()).kept(plain), plain);
        assert_eq!(parse_kept(plain), parse(plain));
    }
}
