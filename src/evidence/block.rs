//! Hashes of the ledger: leaves, Merkle roots, blocks, and the head that is kept elsewhere. Pure.
//!
//! The tree is that of RFC 6962, section 2.1, with SHA-256: a leaf is hashed behind a zero byte, a node
//! behind a one. A block's own hash has a two in front, so that none can pass for another.

use std::fmt::{self, Display};
use std::str::FromStr;

use sha2::{Digest, Sha256};

use crate::error::{Error, Kind};

pub type Hash = [u8; 32];

/// What the first block has as the hash of the one before it.
pub const GENESIS: Hash = [0; 32];

fn sha256(parts: &[&[u8]]) -> Hash {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// The hash of an entry: its number (8 bytes, big-endian) and the bytes of its body.
pub fn leaf(entry: i64, body: &[u8]) -> Hash {
    sha256(&[&[0], &entry.to_be_bytes(), body])
}

/// The Merkle root over the leaves: each subtree's left side is the largest power of two that leaves
/// something for the right.
pub fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => sha256(&[]),
        [leaf] => *leaf,
        _ => {
            let left = leaves.len().next_power_of_two() / 2;
            let (left, right) = leaves.split_at(left);
            sha256(&[&[1], &root(left), &root(right)])
        }
    }
}

/// What a block's hash is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Counts from 1.
    pub number: i64,
    /// Microseconds since 1970-01-01 00:00 UTC.
    pub sealed_at: i64,
    /// The server's timeline: a chain that forked by promotion or recovery shows where.
    pub timeline: i64,
    pub entries: i32,
    pub root: Hash,
    pub previous: Hash,
}

impl Header {
    pub fn hash(&self) -> Hash {
        sha256(&[
            &[2],
            &self.number.to_be_bytes(),
            &self.sealed_at.to_be_bytes(),
            &self.timeline.to_be_bytes(),
            &self.entries.to_be_bytes(),
            &self.root,
            &self.previous,
        ])
    }
}

/// The end of the sealed ledger, as it is exported: `v1:block:hash:entries:unsealed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// 0 when nothing is sealed.
    pub block: i64,
    pub hash: Hash,
    /// Entries in all blocks together.
    pub entries: i64,
    /// Entries that are in no block yet, and which this head therefore does not vouch for.
    pub unsealed: i64,
}

impl Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "v1:{}:{}:{}:{}",
            self.block,
            hex::encode(self.hash),
            self.entries,
            self.unsealed
        )
    }
}

impl FromStr for Head {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |what: &str| {
            Error::new(Kind::InvalidParameter, "not a head of a ledger")
                .detail(format!(
                    "The {what} cannot be read; a head looks like v1:12:<64 hexadecimal digits>:345:0."
                ))
                .hint("Pass the text that custodian.ledger_head() returned.")
        };
        let number = |text: &str, what: &str| match text.parse::<i64>() {
            Ok(number) if number >= 0 && text.bytes().all(|byte| byte.is_ascii_digit()) => {
                Ok(number)
            }
            _ => Err(wrong(what)),
        };
        let fields: Vec<&str> = text.trim().split(':').collect();
        let [version, block, hash, entries, unsealed] = fields[..] else {
            return Err(wrong("number of fields"));
        };
        if version != "v1" {
            return Err(wrong("version"));
        }
        let mut bytes = GENESIS;
        hex::decode_to_slice(hash, &mut bytes).map_err(|_| wrong("hash"))?;
        Ok(Head {
            block: number(block, "block number")?,
            hash: bytes,
            entries: number(entries, "number of entries")?,
            unsealed: number(unsealed, "number of unsealed entries")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plain(parts: &[&[u8]]) -> Hash {
        Sha256::digest(parts.concat()).into()
    }

    /// A second reading of RFC 6962: pairs from the bottom, an odd one is carried up as it is.
    fn bottom_up(leaves: &[Hash]) -> Hash {
        let mut level = leaves.to_vec();
        if level.is_empty() {
            return plain(&[]);
        }
        while level.len() > 1 {
            level = level
                .chunks(2)
                .map(|pair| match pair {
                    [left, right] => plain(&[&[1], left, right]),
                    _ => pair[0],
                })
                .collect();
        }
        level[0]
    }

    #[test]
    fn known_values() {
        assert_eq!(
            hex::encode(root(&[])),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        // printf '\x00\x00\x00\x00\x00\x00\x00\x00\x01{}' | sha256sum
        assert_eq!(leaf(1, b"{}"), plain(&[b"\0\0\0\0\0\0\0\0\x01{}"]));
        let [a, b, c] = [leaf(1, b"a"), leaf(2, b"b"), leaf(3, b"c")];
        let left = plain(&[&[1], &a, &b]);
        assert_eq!(root(&[a, b, c]), plain(&[&[1], &left, &c]));
    }

    #[test]
    fn heads_survive_their_text() {
        let head = Head {
            block: 12,
            hash: leaf(1, b"x"),
            entries: 345,
            unsealed: 2,
        };
        assert_eq!(head.to_string().parse::<Head>(), Ok(head));
        for wrong in [
            "",
            "v1",
            "v2:0:00:0:0",
            "v1:1:zz:0:0",
            "v1:1:00:0:0",
            "v1:-1:0000000000000000000000000000000000000000000000000000000000000000:0:0",
            "v1:+1:0000000000000000000000000000000000000000000000000000000000000000:0:0",
            "v1:1:0000000000000000000000000000000000000000000000000000000000000000:0:0:0",
        ] {
            let error = wrong.parse::<Head>().expect_err("must be refused");
            assert_eq!(error.kind, Kind::InvalidParameter, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn two_readings_of_the_tree_agree(bodies in prop::collection::vec(any::<Vec<u8>>(), 0..70)) {
            let leaves: Vec<Hash> = bodies.iter().enumerate()
                .map(|(number, body)| leaf(number as i64, body)).collect();
            prop_assert_eq!(root(&leaves), bottom_up(&leaves));
        }

        #[test]
        fn any_change_of_a_leaf_changes_the_root(
            count in 1usize..40, at in any::<prop::sample::Index>(), body in any::<Vec<u8>>()
        ) {
            let mut leaves: Vec<Hash> = (0..count).map(|n| leaf(n as i64, b"body")).collect();
            let before = root(&leaves);
            let index = at.index(count);
            leaves[index] = leaf(1000, &body);
            prop_assert_ne!(root(&leaves), before);
        }

        #[test]
        fn every_field_of_a_header_counts(
            number in any::<i64>(), sealed_at in any::<i64>(), timeline in any::<i64>(), entries in any::<i32>()
        ) {
            let header = Header { number, sealed_at, timeline, entries, root: leaf(1, b"r"), previous: GENESIS };
            let hash = header.hash();
            prop_assert_ne!(Header { number: number ^ 1, ..header }.hash(), hash);
            prop_assert_ne!(Header { sealed_at: sealed_at ^ 1, ..header }.hash(), hash);
            prop_assert_ne!(Header { timeline: timeline ^ 1, ..header }.hash(), hash);
            prop_assert_ne!(Header { entries: entries ^ 1, ..header }.hash(), hash);
            prop_assert_ne!(Header { root: GENESIS, ..header }.hash(), hash);
            prop_assert_ne!(Header { previous: header.root, ..header }.hash(), hash);
        }
    }
}
