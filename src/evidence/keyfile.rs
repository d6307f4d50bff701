//! The text in which keys leave a database and enter another. Pure.
//!
//! ```text
//! -----BEGIN CUSTODIAN KEYS-----
//! version 1
//! key 2f1c…-… pseudonym 8c0e… 5f3a…   (key id, use, fingerprint, the secret, in hexadecimal)
//! checksum 77ab…                      (SHA-256 of the lines from version on, each with its line feed)
//! -----END CUSTODIAN KEYS-----
//! ```

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::error::{Error, Kind, Result};

const BEGIN: &str = "-----BEGIN CUSTODIAN KEYS-----";
const END: &str = "-----END CUSTODIAN KEYS-----";

/// A key in the text. Identifiers are 16 bytes.
pub struct Exported {
    pub id: [u8; 16],
    pub usage: String,
    pub fingerprint: String,
    pub secret: Zeroizing<Vec<u8>>,
}

/// What stands for a key where the key itself must not: the first 16 bytes of a SHA-256 over the key and its
/// identifier, in hexadecimal.
pub fn fingerprint(id: &[u8; 16], secret: &[u8]) -> String {
    let digest = Sha256::new()
        .chain_update(b"pg_custodian key\0")
        .chain_update(id)
        .chain_update(secret)
        .finalize();
    hex::encode(&digest[..16])
}

/// An identifier in the usual form of a UUID.
pub fn uuid_text(id: &[u8; 16]) -> String {
    let digits = hex::encode(id);
    [
        &digits[..8],
        &digits[8..12],
        &digits[12..16],
        &digits[16..20],
        &digits[20..],
    ]
    .join("-")
}

fn uuid(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.chars().filter(|character| *character != '-').collect();
    let mut id = [0; 16];
    hex::decode_to_slice(digits, &mut id).ok()?;
    Some(id)
}

fn checksum(lines: &str) -> String {
    hex::encode(Sha256::digest(lines))
}

/// Writes the text.
pub fn write(keys: &[Exported]) -> Zeroizing<String> {
    let mut lines = Zeroizing::new(String::from("version 1\n"));
    for key in keys {
        let secret = Zeroizing::new(hex::encode(key.secret.as_slice()));
        for part in [
            "key ",
            &uuid_text(&key.id),
            " ",
            &key.usage,
            " ",
            &key.fingerprint,
            " ",
            &secret,
            "\n",
        ] {
            lines.push_str(part);
        }
    }
    let checksum = checksum(&lines);
    Zeroizing::new(format!(
        "{BEGIN}\n{}checksum {checksum}\n{END}\n",
        lines.as_str()
    ))
}

/// Reads the text. Spaces around lines, psql's continuation marks, and lines around the markers do no harm.
pub fn read(text: &str) -> Result<Vec<Exported>> {
    let wrong = |what: String| {
        Error::new(Kind::InvalidParameter, "not an export of keys")
            .detail(what)
            .hint("Pass the whole text that custodian.export_keys() returned, markers included.")
    };
    let mut lines = text
        .lines()
        // psql ends each line but the last of a wide value with a plus.
        .map(|line| line.trim().trim_end_matches('+').trim_end())
        .skip_while(|line| *line != BEGIN)
        .skip(1)
        .filter(|line| !line.is_empty());
    let mut covered = Zeroizing::new(String::new());
    let mut keys = Vec::new();
    let mut versioned = false;
    loop {
        let Some(line) = lines.next() else {
            return Err(wrong(format!(
                "The text has no line \"{BEGIN}\", or ends before its checksum."
            )));
        };
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        match fields[..] {
            ["version", "1"] if !versioned => versioned = true,
            ["version", version] => {
                return Err(wrong(format!(
                    "Version \"{version}\" cannot be read by this release."
                )));
            }
            ["key", id, usage, fingerprint, secret] if versioned => {
                keys.push(Exported {
                    id: uuid(id)
                        .ok_or_else(|| wrong(format!("Key {} has no valid id.", keys.len() + 1)))?,
                    usage: usage.to_owned(),
                    fingerprint: fingerprint.to_owned(),
                    secret: Zeroizing::new(hex::decode(secret).map_err(|_| {
                        wrong(format!("The secret of key {id} is not hexadecimal."))
                    })?),
                })
            }
            ["checksum", given] => {
                if checksum(&covered) != given {
                    return Err(wrong(
                        "The checksum does not match: the text was cut or changed.".to_owned(),
                    ));
                }
                break;
            }
            // Not shown: it may be part of a secret.
            _ => {
                return Err(wrong(format!(
                    "The line after {} keys is not understood.",
                    keys.len()
                )));
            }
        }
        covered.push_str(line);
        covered.push('\n');
    }
    if lines.next() != Some(END) {
        return Err(wrong(format!("The text does not end in \"{END}\".")));
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> Exported {
        let id = [seed; 16];
        let secret = Zeroizing::new(vec![seed ^ 0x5a; 32]);
        Exported {
            id,
            usage: "pseudonym".to_owned(),
            fingerprint: fingerprint(&id, &secret),
            secret,
        }
    }

    #[test]
    fn keys_survive_their_text() {
        let text = write(&[key(1), key(2)]);
        for text in [
            text.to_string(),
            format!("  note\n\n{}", text.replace('\n', "   +\r\n\n")),
        ] {
            let keys = read(&text).expect("readable");
            assert_eq!(keys.len(), 2);
            assert_eq!(keys[1].id, [2; 16]);
            assert_eq!(keys[1].secret, key(2).secret);
            assert_eq!(keys[1].fingerprint, fingerprint(&[2; 16], &[2 ^ 0x5a; 32]));
        }
        assert!(read(&write(&[])).expect("readable").is_empty());
    }

    #[test]
    fn a_changed_or_cut_text_is_refused_without_showing_it() {
        let text = write(&[key(1), key(2)]).to_string();
        let secret = hex::encode([1u8 ^ 0x5a; 32]);
        for wrong in [
            String::new(),
            "keys".to_owned(),
            text[..text.len() / 2].to_owned(),
            text.replace(&secret, &secret.replace('5', "6")),
            text.replace(&secret, "zz"),
            text.replace("version 1", "version 2"),
            text.replace("version 1\n", ""),
            text.replace("checksum ", "checksum 0"),
            text.replace(END, ""),
            text.replace("key ", "kex "),
        ] {
            let error = read(&wrong).err().expect("must be refused");
            assert_eq!(error.kind, Kind::InvalidParameter);
            assert!(!format!("{error:?}").contains(&secret[..16]));
        }
    }

    #[test]
    fn uuids_are_written_as_the_server_does() {
        let id: [u8; 16] = std::array::from_fn(|index| index as u8);
        assert_eq!(uuid_text(&id), "00010203-0405-0607-0809-0a0b0c0d0e0f");
        assert_eq!(uuid(&uuid_text(&id)), Some(id));
    }
}
