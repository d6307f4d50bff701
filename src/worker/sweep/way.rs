//! Which way a sweep goes over a leaf, and why. Pure.

use std::ops::Range;

use crate::policy::model::Ident;

/// What an index leads to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blocks {
    /// Ranges of blocks, in order; blocks that lie no further apart than [`GAP`] are one range.
    pub ranges: Vec<Range<u32>>,
    /// How many blocks the index named.
    pub named: u32,
}

impl Blocks {
    /// Adds a block that lies behind all others.
    pub fn push(&mut self, block: u32) {
        self.named += 1;
        match self.ranges.last_mut() {
            Some(last) if block.saturating_sub(last.end) <= GAP => last.end = block + 1,
            _ => self.ranges.push(block..block + 1),
        }
    }
}

/// What is known about where the due rows of a leaf lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// Those that are due lie in these blocks: they are few, or, with `back`, among them rows that were reopened or came free.
    Listed { blocks: Blocks, back: bool },
    /// No clock of the row itself bounds what is due.
    NoClock,
    /// No index begins with the clock, a column of this name.
    NoIndex { column: String },
    /// This index leads to these blocks, and in them to these rows of all that the leaf has; `None`: nothing is known of
    /// them all.
    Index {
        name: String,
        blocks: Blocks,
        rows: Rows,
        all: Option<u64>,
    },
}

/// The rows that an index names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// This many, as far as can be told.
    Named(u64),
    /// More than there is room to note.
    NoRoom,
    /// Whichever they are, every row of their blocks is looked at: what is done to one may change others.
    All,
}

/// The blocks that a sweep goes over, and what it says about that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    pub ranges: Vec<Range<u32>>,
    pub by_index: bool,
    /// Of its blocks only the rows are looked at that an index named.
    pub by_places: bool,
    /// In the manner of EXPLAIN. Names of objects and numbers of blocks only.
    pub text: String,
}

/// Blocks that an index names are gone to when they are at most one in this many of the heap: a pass over everything
/// reads in order, and needs no list.
const SPARSE: u32 = 2;

/// Where it names more blocks, rows that it names are gone to when they are at most one in this many.
const SPARSE_ROWS: u64 = 2;

/// Up to this many blocks between two that an index names are passed over with them: less than a statement costs.
const GAP: u32 = 16;

/// Blocks are listed one by one up to this many.
pub const LISTED: u32 = 65_536;

/// How many blocks an index may name so that it is followed.
pub fn most(heap: u32) -> u32 {
    heap / SPARSE
}

fn size(ranges: &[Range<u32>]) -> u64 {
    ranges.iter().map(|range| range.len() as u64).sum()
}

/// What of the ranges lies at or behind a block.
pub fn behind(ranges: &[Range<u32>], block: u32) -> Vec<Range<u32>> {
    ranges
        .iter()
        .map(|range| range.start.max(block)..range.end)
        .filter(|range| !range.is_empty())
        .collect()
}

impl Way {
    /// The way over a leaf of `heap` blocks.
    pub fn choose(leaf: &Ident, heap: u32, known: Known) -> Way {
        let name = &leaf.name;
        let pass = |reason: String| Way {
            ranges: std::iter::once(0..heap)
                .filter(|all| !all.is_empty())
                .collect(),
            by_index: false,
            by_places: false,
            text: format!("Block Range Pass on {name}  (blocks={heap})\n  Reason: {reason}"),
        };
        // Rows that are added behind the end meanwhile are for the next pass.
        let go_to = |blocks: Blocks, by: &str, reason: &str| {
            let ranges: Vec<Range<u32>> = blocks
                .ranges
                .iter()
                .map(|range| range.start..range.end.min(heap))
                .filter(|range| !range.is_empty())
                .collect();
            let text = format!(
                "{by} on {name}  (blocks={} of {heap}, ranges={})\n  Reason: {reason}",
                size(&ranges),
                ranges.len(),
            );
            Way {
                ranges,
                by_index: true,
                by_places: false,
                text,
            }
        };
        match known {
            Known::Listed { blocks, back } => {
                let what = match back {
                    true => "rows to be looked at again",
                    false => "few rows",
                };
                let named = blocks.named;
                let reason = format!("{what} are due in {named} of {heap} blocks");
                go_to(blocks, "Listed Block Ranges", &reason)
            }
            Known::NoClock => pass("no clock of the rows themselves bounds what is due".to_owned()),
            Known::NoIndex { column } => pass(format!("no index begins with {column}")),
            Known::Index {
                name: index,
                blocks,
                rows,
                ..
            } if blocks.named <= most(heap) => {
                let reason = format!("{index} leads to {} of {heap} blocks", blocks.named);
                let by = format!("Index Block Ranges using {index}");
                Way {
                    by_places: matches!(rows, Rows::Named(_)),
                    ..go_to(blocks, &by, &reason)
                }
            }
            Known::Index {
                name: index,
                blocks,
                rows,
                all,
            } => {
                let named = blocks.named;
                if let (Rows::Named(rows), Some(all)) = (rows, all)
                    && rows <= all / SPARSE_ROWS
                {
                    return Way {
                        by_places: true,
                        text: format!(
                            "Index Places using {index} on {name}  (rows={rows}, blocks={named} of {heap})\n  \
                             Reason: {index} leads to no more than one in {SPARSE_ROWS} rows"
                        ),
                        ..pass(String::new())
                    };
                }
                let more = match (rows, all) {
                    (Rows::All, _) => {
                        "triggers, rules or a circle of foreign keys have all rows of a block looked at".to_owned()
                    }
                    (Rows::NoRoom, _) => "more than half of maintenance_work_mem has room for".to_owned(),
                    (_, None) => "it is not known how many rows there are".to_owned(),
                    _ => format!("more than one in {SPARSE_ROWS} rows"),
                };
                pass(format!(
                    "{index} leads to more than {} of {heap} blocks, and {more}",
                    most(heap)
                ))
            }
        }
    }

    /// How many blocks it goes over.
    pub fn blocks(&self) -> u64 {
        size(&self.ranges)
    }
}

/// Where a sweep is on its way: batches are taken from it in order.
#[derive(Debug)]
pub struct Walk<'a> {
    ranges: &'a [Range<u32>],
    at: usize,
    block: u32,
    most_ranges: usize,
}

/// A batch has at most this many ranges of blocks where each is a statement of its own.
pub const MOST_RANGES: usize = 64;

impl<'a> Walk<'a> {
    pub fn new(ranges: &'a [Range<u32>], most_ranges: usize) -> Walk<'a> {
        Walk {
            most_ranges,
            ranges,
            at: 0,
            block: ranges.first().map_or(0, |range| range.start),
        }
    }

    /// The next blocks, at most `most` and at least one; none at the end. They stay the next ones until
    /// [`Walk::advance`] is called.
    pub fn next(&self, most: u32) -> Vec<Range<u32>> {
        let mut left = most.max(1);
        let mut taken = Vec::new();
        let mut start = self.block;
        for range in self.ranges.iter().skip(self.at) {
            let start_here = start.max(range.start);
            let end = range.end.min(start_here.saturating_add(left));
            if end > start_here {
                taken.push(start_here..end);
                left -= end - start_here;
            }
            if left == 0 || taken.len() >= self.most_ranges {
                break;
            }
            start = 0;
        }
        taken
    }

    /// Leaves these blocks, the next ones, behind.
    pub fn advance(&mut self, taken: &[Range<u32>]) {
        let Some(last) = taken.last() else {
            return;
        };
        self.block = last.end;
        while self
            .ranges
            .get(self.at)
            .is_some_and(|range| range.end <= self.block)
        {
            self.at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ident(name: &str) -> Ident {
        Ident {
            name: name.to_owned(),
            quoted: name.to_owned(),
        }
    }

    #[test]
    fn blocks_that_lie_close_are_one_range() {
        let mut found = Blocks::default();
        for block in [3, 4, 7, 7 + GAP + 1, 7 + 2 * GAP + 3] {
            found.push(block);
        }
        assert_eq!(
            found.ranges,
            [3..7 + GAP + 2, 7 + 2 * GAP + 3..7 + 2 * GAP + 4]
        );
        assert_eq!(found.named, 5);
    }

    fn one(range: Range<u32>) -> Vec<Range<u32>> {
        std::iter::once(range).collect()
    }

    fn index(ranges: Vec<Range<u32>>, named: u32) -> Known {
        Known::Index {
            name: "t_seen_idx".to_owned(),
            blocks: Blocks { ranges, named },
            rows: Rows::Named(100),
            all: Some(300),
        }
    }

    #[test]
    fn an_index_is_followed_where_it_leads_to_few_blocks_and_it_is_said_why() {
        let way = Way::choose(&ident("s.t"), 1000, index(vec![10..20, 990..1010], 25));
        assert_eq!(way.ranges, [10..20, 990..1000]);
        assert_eq!(
            way.text,
            "Index Block Ranges using t_seen_idx on s.t  (blocks=20 of 1000, ranges=2)\n  \
             Reason: t_seen_idx leads to 25 of 1000 blocks"
        );
    }

    #[test]
    fn rows_that_were_reopened_are_gone_to_where_they_lie() {
        let mut blocks = Blocks::default();
        blocks.push(5);
        blocks.push(999);
        blocks.push(1000);
        let way = Way::choose(&ident("s.t"), 1000, Known::Listed { blocks, back: true });
        assert_eq!(way.ranges, [5..6, 999..1000]);
        assert_eq!(
            way.text,
            "Listed Block Ranges on s.t  (blocks=2 of 1000, ranges=2)\n  \
             Reason: rows to be looked at again are due in 3 of 1000 blocks"
        );
    }

    #[test]
    fn everything_is_passed_over_where_an_index_leads_everywhere_or_there_is_none() {
        let everywhere = |rows, all| Known::Index {
            name: "t_seen_idx".to_owned(),
            blocks: Blocks {
                ranges: one(0..1000),
                named: 900,
            },
            rows,
            all,
        };
        let way = Way::choose(
            &ident("s.t"),
            1000,
            everywhere(Rows::Named(501), Some(1000)),
        );
        assert_eq!(way.ranges, one(0..1000));
        assert!(!way.by_places);
        assert_eq!(
            way.text,
            "Block Range Pass on s.t  (blocks=1000)\n  \
             Reason: t_seen_idx leads to more than 500 of 1000 blocks, and more than one in 2 rows"
        );
        let way = Way::choose(&ident("s.t"), 1000, everywhere(Rows::Named(1), None));
        assert!(!way.by_places);
        let way = Way::choose(&ident("s.t"), 1000, everywhere(Rows::NoRoom, Some(1000)));
        assert!(!way.by_places);
        let way = Way::choose(&ident("s.t"), 1000, everywhere(Rows::All, Some(1000)));
        assert!(!way.by_places);
        assert!(
            way.text.contains("have all rows of a block looked at"),
            "{}",
            way.text
        );
        let way = Way::choose(&ident("s.t"), 0, Known::NoClock);
        assert_eq!(way.ranges, []);
    }

    #[test]
    fn few_rows_in_most_blocks_are_gone_to_one_by_one() {
        let known = Known::Index {
            name: "t_seen_idx".to_owned(),
            blocks: Blocks {
                ranges: one(3..1010),
                named: 900,
            },
            rows: Rows::Named(500),
            all: Some(1000),
        };
        let way = Way::choose(&ident("s.t"), 1000, known);
        // All of it is passed in order, and how far is noted, as in any pass.
        assert_eq!(way.ranges, one(0..1000));
        assert!(way.by_places && !way.by_index);
        assert_eq!(
            way.text,
            "Index Places using t_seen_idx on s.t  (rows=500, blocks=900 of 1000)\n  \
             Reason: t_seen_idx leads to no more than one in 2 rows"
        );
    }

    #[test]
    fn what_was_passed_is_left_out() {
        assert_eq!(behind(&[0..10, 20..30], 0), [0..10, 20..30]);
        assert_eq!(behind(&[0..10, 20..30], 9), [9..10, 20..30]);
        assert_eq!(behind(&[0..10, 20..30], 15), one(20..30));
        assert_eq!(behind(&[0..10, 20..30], 30), []);
    }

    #[test]
    fn a_walk_takes_every_block_once_whatever_the_sizes_of_its_batches() {
        let ranges = [3..5, 9..10, 100..140];
        let mut walk = Walk::new(&ranges, MOST_RANGES);
        let mut seen = Vec::new();
        for size in [1, 3, 0, 16, 7, 100, 1] {
            let taken = walk.next(size);
            assert!(size_of(&taken) <= u64::from(size.max(1)));
            walk.advance(&taken);
            seen.extend(taken.into_iter().flatten());
        }
        let all: Vec<u32> = ranges.iter().cloned().flatten().collect();
        assert_eq!(seen, all);
        assert_eq!(walk.next(5), []);
    }

    fn size_of(taken: &[Range<u32>]) -> u64 {
        size(taken)
    }

    #[test]
    fn what_failed_is_taken_again_in_smaller_batches() {
        let ranges = [0..10, 20..30];
        let walk = Walk::new(&ranges, MOST_RANGES);
        assert_eq!(walk.next(16), [0..10, 20..26]);
        assert_eq!(walk.next(8), one(0..8));
    }

    #[test]
    fn a_batch_has_no_more_ranges_than_statements_can_be_made_at_once() {
        let ranges: Vec<Range<u32>> = (0..200).map(|n| n * 100..n * 100 + 1).collect();
        let mut walk = Walk::new(&ranges, MOST_RANGES);
        let taken = walk.next(1000);
        assert_eq!(taken.len(), MOST_RANGES);
        walk.advance(&taken);
        assert_eq!(walk.next(1), one(6400..6401));
    }
}
