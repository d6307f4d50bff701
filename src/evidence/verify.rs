//! Verification of the ledger: what a stored chain of blocks contradicts, named. Pure: it is handed the rows
//! as they are stored, block by block, and believes none of them.
//!
//! Without a head from elsewhere a chain can only be checked against itself: whoever rewrites all of it, or
//! cuts off its end, leaves a chain that is consistent. With a head neither is possible for what it covers.

use crate::evidence::block::{self, GENESIS, Hash, Head, Header};

/// A block as stored. Hashes are bytes of any length, since anybody may have written them.
#[derive(Clone, Debug)]
pub struct StoredBlock {
    pub number: i64,
    pub sealed_at: i64,
    pub timeline: i64,
    pub entries: i32,
    pub root: Vec<u8>,
    pub previous: Vec<u8>,
    pub hash: Vec<u8>,
}

/// A leaf as stored, with the body of its entry when that is still there. Positions count from 0.
#[derive(Clone, Debug)]
pub struct StoredLeaf {
    pub position: i32,
    pub entry: i64,
    pub hash: Vec<u8>,
    pub body: Option<String>,
}

/// Something that contradicts the evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub block: Option<i64>,
    pub entry: Option<i64>,
    pub problem: String,
}

/// Checks a chain, block after block in the order of their numbers.
pub struct Verifier {
    head: Option<Head>,
    /// The number that the next block must have.
    next: i64,
    /// The stored hash of the block before; `None` when that block is missing.
    previous: Option<Vec<u8>>,
    /// Entries of all blocks so far, as these say.
    entries: i64,
    problems: Vec<Problem>,
}

fn fixed(bytes: &[u8]) -> Option<Hash> {
    bytes.try_into().ok()
}

impl Verifier {
    pub fn new(head: Option<Head>) -> Self {
        Verifier {
            head,
            next: 1,
            previous: Some(GENESIS.to_vec()),
            entries: 0,
            problems: Vec::new(),
        }
    }

    fn report(&mut self, block: i64, entry: Option<i64>, problem: impl Into<String>) {
        self.problems.push(Problem {
            block: Some(block),
            entry,
            problem: problem.into(),
        });
    }

    fn missing(&mut self, to: i64) {
        if self.next < to {
            let range = if self.next + 1 == to {
                format!("block {} is missing", self.next)
            } else {
                format!("blocks {} to {} are missing", self.next, to - 1)
            };
            self.report(self.next, None, range);
            self.previous = None;
        }
    }

    /// Checks the next block. `leaves` are all leaves that say they belong to it, by position, then entry.
    pub fn block(&mut self, stored: &StoredBlock, leaves: &[StoredLeaf]) {
        let number = stored.number;
        if number < self.next {
            self.report(number, None, "a block with this number cannot exist");
            return;
        }
        self.missing(number);
        let structure = self.leaves(stored, leaves);
        let hashes: Option<Vec<Hash>> = leaves.iter().map(|leaf| fixed(&leaf.hash)).collect();
        let root = hashes.map(|hashes| block::root(&hashes).to_vec());
        if structure && root.as_ref() != Some(&stored.root) {
            self.report(
                number,
                None,
                "the hashes of the block's entries do not give its root: an entry and its hash were changed",
            );
        }
        self.header(stored);
        if self.head.is_some_and(|head| head.block == number) {
            self.head_block(stored);
        }
        self.next = number + 1;
        self.previous = Some(stored.hash.clone());
    }

    /// Checks each entry of the block. Whether the right number of leaves is there, in the right order.
    fn leaves(&mut self, stored: &StoredBlock, leaves: &[StoredLeaf]) -> bool {
        let number = stored.number;
        let mut structure = true;
        let mut expected = 0;
        let mut last = i64::MIN;
        for leaf in leaves {
            let entry = Some(leaf.entry);
            if leaf.position >= stored.entries || leaf.position < expected {
                self.report(
                    number,
                    entry,
                    "the entry was inserted into the sealed block",
                );
                structure = false;
                continue;
            }
            if leaf.position > expected {
                self.removed(stored, expected, leaf.position);
                structure = false;
            }
            expected = leaf.position + 1;
            if leaf.entry <= last {
                self.report(number, entry, "the entry is not where it was sealed");
                structure = false;
            }
            last = leaf.entry;
            match &leaf.body {
                None => self.report(number, entry, "the entry was deleted"),
                Some(body) => {
                    if leaf.hash != block::leaf(leaf.entry, body.as_bytes()) {
                        self.report(number, entry, "the entry was edited");
                    }
                }
            }
        }
        if expected < stored.entries {
            self.removed(stored, expected, stored.entries);
            structure = false;
        }
        self.entries = self.entries.saturating_add(i64::from(stored.entries));
        structure
    }

    fn removed(&mut self, stored: &StoredBlock, from: i32, to: i32) {
        let count = to - from;
        let problem = if count == 1 {
            format!("the entry at position {from} was removed")
        } else {
            format!("{count} entries from position {from} on were removed")
        };
        self.report(stored.number, None, problem);
    }

    fn header(&mut self, stored: &StoredBlock) {
        let number = stored.number;
        if let Some(previous) = &self.previous
            && *previous != stored.previous
        {
            self.report(
                number,
                None,
                "the block does not follow the one before it: that one was replaced",
            );
        }
        let hash = match (fixed(&stored.root), fixed(&stored.previous)) {
            (Some(root), Some(previous)) => Some(
                Header {
                    number,
                    sealed_at: stored.sealed_at,
                    timeline: stored.timeline,
                    entries: stored.entries,
                    root,
                    previous,
                }
                .hash(),
            ),
            _ => None,
        };
        if hash.is_none_or(|hash| stored.hash != hash) {
            self.report(number, None, "the block itself was edited");
        }
    }

    fn head_block(&mut self, stored: &StoredBlock) {
        let Some(head) = self.head else { return };
        if stored.hash != head.hash {
            self.report(
                stored.number,
                None,
                format!(
                    "the block is not the one that the head names: the ledger was rewritten, or continues from a \
                     recovery to an earlier point (this block was sealed on timeline {})",
                    stored.timeline
                ),
            );
        } else if self.entries != head.entries {
            self.report(
                stored.number,
                None,
                format!(
                    "the head names {} entries, the blocks up to here say {}",
                    head.entries, self.entries
                ),
            );
        }
    }

    /// What was found, once every block was handed over.
    pub fn finish(mut self) -> Vec<Problem> {
        if let Some(head) = self.head
            && head.block >= self.next
        {
            self.missing(head.block + 1);
        }
        self.problems
    }
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
