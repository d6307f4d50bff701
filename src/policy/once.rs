//! Rows that go along with those of several tables or partitions, so that a count names each of them once. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::policy::cascade;
use crate::policy::model::{ForeignKey, Plan, RelId};

/// A word for each 64 offsets of a block.
type Bits = Vec<u64>;

/// Rows by relation and block.
type Rows = BTreeMap<(RelId, u32), Bits>;

/// What was counted so far. Rows to which several foreign keys lead are noted by their places; where no row can be reached
/// twice, and most schemas are so, nothing is.
#[derive(Debug, Default)]
pub struct Once {
    /// Leaves whose rows are counted as their own table's.
    own: BTreeSet<RelId>,
    /// The tables whose rows reach some that others reach, too.
    meeting: BTreeSet<RelId>,
    /// Rows that are deleted, by relation and block.
    deleted: Rows,
    /// Rows in which a key is emptied, by the relation and the name of that.
    changed: BTreeMap<(RelId, String), Rows>,
    /// How many bytes of these may be kept.
    room: usize,
    full: bool,
}

/// What a block takes beside its words: key, pointers, and what the tree keeps free.
const BLOCK: usize = 64;

/// A way by which rows of a table go along with those of a plan.
struct Way<'p> {
    plan: RelId,
    family: &'p [RelId],
    parent: RelId,
}

fn meet(one: &[RelId], other: &[RelId]) -> bool {
    one.iter().any(|relation| other.contains(relation))
}

/// The plans' own tables whose rows reach some that are reached by another way as well: two keys lead to them, what lies
/// above them is reached twice, or two plans have them in a circle. Rows of `own` leaves are none of these.
fn meeting(plans: &[&Plan], own: &BTreeSet<RelId>) -> BTreeSet<RelId> {
    let mut ways = Vec::new();
    for plan in plans {
        let in_circle = plan.together().filter(|other| {
            !plan.circle.is_empty() && other.leaves.iter().any(|leaf| !own.contains(&leaf.id))
        });
        ways.extend(in_circle.map(|other| Way {
            plan: plan.table,
            family: &other.family,
            parent: plan.table,
        }));
        ways.extend(cascade::declared_tables(plan).map(|(key, family)| Way {
            plan: plan.table,
            family,
            parent: key.parent,
        }));
    }
    let mut twice: Vec<bool> = ways
        .iter()
        .enumerate()
        .map(|(at, way)| {
            let others = ways.iter().enumerate().filter(|(other, _)| *other != at);
            others
                .into_iter()
                .any(|(_, other)| meet(way.family, other.family))
        })
        .collect();
    loop {
        let below = ways.iter().zip(&twice).position(|(way, known)| {
            let mut above = ways.iter().zip(&twice).filter(|(_, twice)| **twice);
            !known && above.any(|(above, _)| above.family.contains(&way.parent))
        });
        match below.and_then(|below| twice.get_mut(below)) {
            Some(twice) => *twice = true,
            None => break,
        }
    }
    let met = ways.iter().zip(twice).filter(|(_, twice)| *twice);
    met.map(|(way, _)| way.plan).collect()
}

/// Notes rows of a block while there is room, and says how many were not known.
fn note(
    rows: &mut Rows,
    at: (RelId, u32),
    offsets: &[u16],
    (room, full): (&mut usize, &mut bool),
) -> i64 {
    let known = rows.get_mut(&at);
    let mut none = Bits::new();
    let is_new = known.is_none();
    let bits = known.unwrap_or(&mut none);
    let mut fresh = 0;
    for offset in offsets {
        let (word, bit) = (usize::from(offset / 64), 1 << (offset % 64));
        if bits.len() <= word {
            bits.resize(word + 1, 0);
        }
        if let Some(word) = bits.get_mut(word)
            && *word & bit == 0
        {
            *word |= bit;
            fresh += 1;
        }
    }
    if is_new {
        match room.checked_sub(BLOCK + none.len() * size_of::<u64>()) {
            Some(rest) => {
                *room = rest;
                rows.insert(at, none);
            }
            None => *full = true,
        }
    }
    fresh
}

impl Once {
    /// Nothing yet, for counts of what goes along with rows of these plans, with room for this many bytes. Rows of the leaves
    /// in `own` are none of what goes along: they are counted themselves.
    pub fn of(plans: &[&Plan], own: impl IntoIterator<Item = RelId>, room: usize) -> Once {
        let own = own.into_iter().collect();
        Once {
            meeting: meeting(plans, &own),
            own,
            room,
            ..Once::default()
        }
    }

    /// Leaves whose rows are counted themselves.
    pub fn own(&self) -> &BTreeSet<RelId> {
        &self.own
    }

    /// Whether rows that go along with those of the plan may have been counted, or may be counted again.
    pub fn may_meet(&self, plan: &Plan) -> bool {
        self.meeting.contains(&plan.table)
    }

    /// Notes rows of a block that are deleted, and says how many of them were not known.
    pub fn delete(&mut self, relation: RelId, block: u32, offsets: &[u16]) -> i64 {
        note(
            &mut self.deleted,
            (relation, block),
            offsets,
            (&mut self.room, &mut self.full),
        )
    }

    /// Notes rows of a block in which a key is emptied, and says how many of them are not deleted, and were not known.
    pub fn change(
        &mut self,
        key: &ForeignKey,
        relation: RelId,
        block: u32,
        offsets: &[u16],
    ) -> i64 {
        let deleted = self.deleted.get(&(relation, block));
        let is_deleted = |offset: &u16| {
            let word = deleted.and_then(|bits| bits.get(usize::from(offset / 64)));
            word.is_some_and(|word| word & (1 << (offset % 64)) != 0)
        };
        let offsets: Vec<u16> = offsets
            .iter()
            .copied()
            .filter(|offset| !is_deleted(offset))
            .collect();
        let rows = self.changed.entry((key.child, key.name.clone()));
        note(
            rows.or_default(),
            (relation, block),
            &offsets,
            (&mut self.room, &mut self.full),
        )
    }

    /// What is said where it is full.
    pub const FULL: &str = "more rows go along by several foreign keys than half of maintenance_work_mem has room for: some may be counted twice";

    /// There were more rows than it had room for: some may have been counted again.
    pub fn is_full(&self) -> bool {
        self.full
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::compile::compile;
    use crate::policy::fixture::{foreign_key, policy, schema, table, tag};
    use crate::policy::model::{ForeignKey, OnDelete, Schema, Table};

    fn tagged(id: RelId, name: &str, dependents: &str) -> Table {
        let dependents = match dependents {
            "" => String::new(),
            names => format!(r#","dependents":[{names}]"#),
        };
        let tagged = format!(r#"{{"clock":"at","on_expiry":"delete"{dependents}}}"#);
        table(id, name, &tagged, &[("a", &tag(&["p.a"], ""))])
    }

    fn plain(id: RelId, name: &str) -> Table {
        let mut table = table(id, name, "", &[]);
        table.leaves.clear();
        table
    }

    fn key(name: &str, child: &Table, parent: &Table) -> ForeignKey {
        ForeignKey {
            on_delete: OnDelete::Cascade,
            ..foreign_key(name, child, "id", parent)
        }
    }

    fn met(schema: &Schema, tables: &[RelId]) -> Vec<RelId> {
        met_beside(schema, tables, &[])
    }

    fn met_beside(schema: &Schema, tables: &[RelId], own: &[RelId]) -> Vec<RelId> {
        let policy = policy(&[("p.a", 1)]);
        let plans: Vec<Plan> = tables
            .iter()
            .map(|id| compile(schema, &policy, *id))
            .collect();
        let once = Once::of(&plans.iter().collect::<Vec<_>>(), own.iter().copied(), 0);
        let plans = plans.iter().filter(|plan| once.may_meet(plan));
        plans.map(|plan| plan.table).collect()
    }

    #[test]
    fn places_are_noted_where_two_plans_have_a_third_one_in_their_circle() {
        let [one, two, three] =
            [(1, "one"), (2, "two"), (3, "three")].map(|(id, name)| tagged(id, name, ""));
        let keys = vec![
            key("a", &one, &two),
            key("b", &two, &three),
            key("c", &three, &one),
        ];
        let schema = schema(vec![one, two, three], keys);
        assert_eq!(met_beside(&schema, &[1, 2], &[1, 2]), [1, 2]);
        // Nobody else asks, or all are asked for.
        assert!(met_beside(&schema, &[1], &[1]).is_empty());
        assert!(met_beside(&schema, &[1, 2, 3], &[1, 2, 3]).is_empty());
    }

    #[test]
    fn places_are_noted_where_two_ways_lead_to_a_table_and_below_it() {
        let one = tagged(1, "one", r#""s.shared","s.below","s.chain","s.end""#);
        let two = tagged(2, "two", r#""s.shared","s.below""#);
        let (shared, below) = (plain(3, "shared"), plain(4, "below"));
        let (chain, end) = (plain(5, "chain"), plain(6, "end"));
        let chained = vec![key("c", &chain, &one), key("d", &end, &chain)];
        let tables = vec![one, two, shared, below, chain, end];
        let with = |more: Vec<ForeignKey>| {
            let keys = more.into_iter().chain(chained.clone()).collect();
            schema(tables.clone(), keys)
        };
        // A chain, and a table for each.
        let [one, two, shared, below, ..] = tables.as_slice() else {
            panic!("there are six")
        };
        let apart = with(vec![key("a", shared, one), key("b", below, two)]);
        assert!(met(&apart, &[1, 2]).is_empty());
        // Two keys, of one table and of two.
        let other = ForeignKey {
            name: "other".to_owned(),
            ..key("a", shared, one)
        };
        assert_eq!(met(&with(vec![key("a", shared, one), other]), &[1, 2]), [1]);
        let both = with(vec![key("a", shared, one), key("b", shared, two)]);
        assert_eq!(met(&both, &[1, 2]), [1, 2]);
        // Only one of them is asked about.
        assert!(met(&both, &[1]).is_empty());
        let under = with(vec![
            key("a", shared, one),
            key("b", shared, two),
            key("e", below, shared),
        ]);
        assert_eq!(met(&under, &[1, 2]), [1, 2]);
    }

    #[test]
    fn a_row_is_new_once_for_each_way_and_room_has_an_end() {
        let mut once = Once::of(&[], [7], 4 * (BLOCK + 16));
        assert_eq!(once.own(), &BTreeSet::from([7]));
        assert_eq!(once.delete(1, 0, &[1, 2, 70]), 3);
        assert_eq!(once.delete(1, 0, &[2, 3, 70]), 1);
        assert_eq!(once.delete(2, 0, &[2, 3]), 2);
        let (one, two) = (plain(3, "one"), plain(4, "two"));
        let (a, b) = (key("a", &one, &two), key("b", &one, &two));
        assert_eq!(once.change(&a, 1, 0, &[1, 4, 70, 700]), 2);
        assert_eq!(once.change(&a, 1, 0, &[4, 5]), 1);
        assert_eq!(once.change(&b, 1, 0, &[4]), 1);
        assert!(once.is_full());
        let mut once = Once::of(&[], [], BLOCK + 8);
        assert_eq!(once.delete(1, 0, &[1]), 1);
        assert!(!once.is_full());
        assert_eq!(once.delete(1, 1, &[1]), 1);
        assert!(once.is_full());
    }
}
