//! Rows by the places that an index names: which of which blocks. Pure.

use std::ops::Range;

const WORDS: usize = 5;

/// Offsets are noted up to this one, more than a block of 8 kB has.
const LAST: u16 = 64 * WORDS as u16 - 1;

/// Some rows of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    pub block: u32,
    /// A bit for each offset; all of them stand for every row, whatever its offset.
    bits: [u64; WORDS],
}

impl Page {
    /// Every row of the block.
    pub const fn whole(block: u32) -> Page {
        Page {
            block,
            bits: [u64::MAX; WORDS],
        }
    }

    /// The rows at these offsets.
    pub fn of(block: u32, offsets: &[u16]) -> Page {
        let mut bits = [0; WORDS];
        for offset in offsets {
            match bits.get_mut(usize::from(offset / 64)) {
                Some(word) => *word |= 1 << (offset % 64),
                None => return Page::whole(block),
            }
        }
        Page { block, bits }
    }

    pub fn is_whole(&self) -> bool {
        self.bits == [u64::MAX; WORDS]
    }

    /// The first offset at or behind `offset`, up to `most`; `None` behind the last.
    #[inline]
    pub fn next(&self, offset: u16, most: u16) -> Option<u16> {
        let mut offset = offset.max(1);
        while offset <= most.min(LAST) {
            let word = self.bits.get(usize::from(offset / 64))? >> (offset % 64);
            if word != 0 {
                let found = offset + word.trailing_zeros() as u16;
                return (found <= most).then_some(found);
            }
            offset = (offset / 64 + 1) * 64;
        }
        (self.is_whole() && offset <= most).then_some(offset)
    }
}

/// Places that an index has named, block by block in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    pages: Vec<Page>,
    most: usize,
    /// Memory is taken for at least this many more at once.
    step: usize,
    full: bool,
    /// How many rows were named one by one.
    pub rows: u64,
    /// Blocks of which no rows were told apart.
    pub whole: u64,
}

impl Places {
    /// None yet, with room for those of as many blocks as this memory holds, in bytes.
    pub fn within_memory(bytes: usize) -> Places {
        Places {
            pages: Vec::new(),
            most: bytes / size_of::<Page>(),
            step: 1024,
            full: false,
            rows: 0,
            whole: 0,
        }
    }

    /// Adds what is named of a block that lies behind all others; `None` is all of it.
    pub fn push(&mut self, block: u32, offsets: Option<&[u16]>) {
        if !self.full && !self.has_room() {
            self.full = true;
            self.pages = Vec::new();
        }
        if self.full {
            return;
        }
        let page = offsets.map_or(Page::whole(block), |offsets| Page::of(block, offsets));
        if page.is_whole() {
            self.whole += 1;
        } else {
            self.rows += offsets.map_or(0, |offsets| offsets.len() as u64);
        }
        self.pages.push(page);
    }

    /// Whether one more has room. Memory that cannot be had is no room: an allocation that fails ends the process, and the
    /// server with it.
    fn has_room(&mut self) -> bool {
        if self.pages.len() < self.pages.capacity().min(self.most) {
            return true;
        }
        let more = self.step.max(self.pages.len() / 2);
        let more = more.min(self.most.saturating_sub(self.pages.len()));
        more > 0 && self.pages.try_reserve_exact(more).is_ok()
    }

    /// There were more than it has room for: it has none of them.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Those that lie in these ranges of blocks, which are in order.
    pub fn within(&self, ranges: &[Range<u32>]) -> Vec<Page> {
        let mut within = Vec::new();
        for range in ranges {
            let first = self.pages.partition_point(|page| page.block < range.start);
            let behind = self.pages.partition_point(|page| page.block < range.end);
            within.extend_from_slice(self.pages.get(first..behind).unwrap_or_default());
        }
        within
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(page: &Page, most: u16) -> Vec<u16> {
        let mut found = Vec::new();
        let mut offset = 0;
        while let Some(next) = page.next(offset, most) {
            found.push(next);
            offset = next + 1;
        }
        found
    }

    #[test]
    fn offsets_come_back_in_order_whatever_words_they_lie_in() {
        let offsets = [1, 63, 64, 65, 128, 291, LAST];
        assert_eq!(all(&Page::of(7, &offsets), u16::MAX), offsets);
        assert_eq!(all(&Page::of(7, &offsets), 128), [1, 63, 64, 65, 128]);
        assert_eq!(all(&Page::of(7, &offsets), 127), [1, 63, 64, 65]);
        assert!(all(&Page::of(7, &[]), 291).is_empty());
    }

    #[test]
    fn a_whole_block_has_every_offset_also_those_that_are_not_noted() {
        let most = LAST + 5;
        assert_eq!(all(&Page::whole(1), most).len(), usize::from(most));
        assert_eq!(all(&Page::of(1, &[3, LAST + 1]), 400).len(), 400);
    }

    #[test]
    fn memory_that_cannot_be_had_is_no_room() {
        let mut places = Places {
            step: usize::MAX,
            ..Places::within_memory(usize::MAX)
        };
        places.push(3, Some(&[1, 2]));
        assert!(places.is_full());

        // It is taken in steps, and no more of it than there may be.
        let most = 5000;
        let mut places = Places::within_memory(most * size_of::<Page>());
        for block in 0..most as u32 {
            places.push(block, None);
            assert!(places.pages.capacity() <= most);
        }
        assert!(!places.is_full());
        assert_eq!(places.within(std::slice::from_ref(&(0..9999))).len(), most);
        places.push(9999, None);
        assert!(places.is_full());
    }

    #[test]
    fn places_are_found_by_ranges_of_blocks() {
        let mut places = Places::within_memory(3 * size_of::<Page>());
        places.push(3, Some(&[1, 2]));
        places.push(5, None);
        places.push(9, Some(&[4]));
        assert_eq!((places.rows, places.whole), (3, 1));
        let blocks = |ranges: &[Range<u32>]| -> Vec<u32> {
            let pages = places.within(ranges);
            pages.iter().map(|page| page.block).collect()
        };
        assert_eq!(blocks(&[0..3, 4..9]), [5]);
        assert_eq!(blocks(&[3..4, 9..100]), [3, 9]);
        assert!(blocks(std::slice::from_ref(&(10..20))).is_empty());
        assert!(!places.is_full());
        places.push(11, Some(&[1]));
        assert!(places.is_full());
        assert!(places.within(std::slice::from_ref(&(0..100))).is_empty());
    }
}
