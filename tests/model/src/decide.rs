//! The rules, one function each.

use std::collections::{BTreeMap, BTreeSet};

use crate::calendar::{self, Moment};
use crate::world::{
    CellTag, Clock, Erasure, ForeignKey, Hold, Kind, OnDelete, Reference, Row, Table, Value, World,
};

/// The state of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    Active,
    Blocked,
    Due,
    Disposed,
    Held,
    /// Its tag means nothing: kept.
    Unresolved,
}

/// What is decided about a world, at its moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// For each row the state of each of its tagged cells.
    pub states: Vec<BTreeMap<String, State>>,
    /// The rows that are deleted, by their index.
    pub deleted: BTreeSet<usize>,
}

impl World {
    /// The relation whose tags govern the rows of `table`: itself, where it has tags of its own, or the nearest such
    /// one above it.
    pub fn governor(&self, mut table: usize) -> usize {
        while let (None, Some(above)) = (&self.tables[table].own, self.tables[table].above) {
            table = above;
        }
        table
    }

    pub fn governing(&self, table: usize) -> &Table {
        &self.tables[self.governor(table)]
    }

    /// Whether `table` is `other` or below it.
    pub fn is_within(&self, mut table: usize, other: usize) -> bool {
        loop {
            if table == other {
                return true;
            }
            match self.tables[table].above {
                Some(above) => table = above,
                None => return false,
            }
        }
    }

    // ----- foreign keys -----

    /// Whether rows of `table` are rows of `end`, an end of a foreign key: those of a partition are rows of the
    /// partitioned table, those of an inheritance child are none of its parent's, for a foreign key.
    pub fn is_row_of(&self, table: usize, end: usize) -> bool {
        table == end || self.tables[end].partitioned && self.is_within(table, end)
    }

    fn equal(one: &Row, columns: &[String], other: &Row, other_columns: &[String]) -> bool {
        columns
            .iter()
            .zip(other_columns)
            .all(|(column, other_column)| {
                let value = one.value(column);
                *value != Value::Null && value == other.value(other_column)
            })
    }

    /// Whether `child` refers to `parent` by the key, and the server watches over that.
    pub fn refers(&self, key: &ForeignKey, child: &Row, parent: &Row) -> bool {
        self.is_row_of(child.table, key.child)
            && self.is_row_of(parent.table, key.parent)
            && Self::equal(child, &key.columns, parent, &key.parent_columns)
    }

    /// The row that the key leads to. Rows of inheritance children have the columns, if not the constraint.
    fn follow(&self, row: &Row, key: &ForeignKey) -> Option<&Row> {
        self.rows.iter().find(|parent| {
            self.is_row_of(parent.table, key.parent)
                && Self::equal(row, &key.columns, parent, &key.parent_columns)
        })
    }

    pub(crate) fn key_of(&self, table: usize, name: &str) -> Option<&ForeignKey> {
        self.foreign_keys
            .iter()
            .find(|key| key.name == name && self.is_within(table, key.child))
    }

    // ----- clocks -----

    /// A clock can be found when each foreign key exists and the last table has such a column, of a type that
    /// says when.
    pub(crate) fn finds(&self, mut table: usize, clock: &Clock) -> bool {
        for name in &clock.over {
            match self.key_of(table, name) {
                Some(key) => table = key.parent,
                None => return false,
            }
        }
        self.tables[table]
            .column(&clock.column)
            .is_some_and(|column| column.kind.is_time())
    }

    /// What a clock says. NULL, infinite, and a way that leads nowhere are the same: it has not begun to run.
    fn read(&self, row: &Row, clock: &Clock) -> Option<Moment> {
        let mut at = row;
        for name in &clock.over {
            at = self.follow(at, self.key_of(at.table, name)?)?;
        }
        match at.value(&clock.column) {
            Value::Time(moment) => Some(*moment),
            _ => None,
        }
    }

    /// The clock of a cell: its own, or its table's.
    fn clock_of<'a>(table: &'a Table, tag: &'a CellTag) -> Option<&'a Clock> {
        tag.clock
            .as_ref()
            .or_else(|| table.tag.as_ref().and_then(|tag| tag.clock.as_ref()))
    }

    // ----- tags -----

    fn deletes(table: &Table) -> bool {
        table.tag.as_ref().is_some_and(|tag| tag.delete)
    }

    /// RESOLVED: at least one existing purpose, clocks that can be found, minimums and maximums that exist, and a
    /// method that fits. Without a method the table must delete rows.
    pub fn is_resolved(&self, table: usize, name: &str) -> bool {
        let (index, table) = (table, self.governing(table));
        let Some(tag) = table.cells.get(name) else {
            return false;
        };
        let Some(clock) = Self::clock_of(table, tag) else {
            return false;
        };
        let collected = table.tag.as_ref().and_then(|tag| tag.collected.as_ref());
        let finds = |reference: &Reference| {
            reference
                .clock
                .as_ref()
                .is_none_or(|clock| self.finds(index, clock))
        };
        let method_fits = match &tag.method {
            None => Self::deletes(table),
            Some(_) if self.is_clock(index, name) => false,
            Some(Value::Null) => table.column(name).is_some_and(|column| {
                let is_key = column.kind == Kind::Key;
                !column.not_null
                    && !(is_key && (self.binds(index, name) || self.leads_over(index, name)))
            }),
            Some(_) => table
                .column(name)
                .is_some_and(|column| column.kind == Kind::Text),
        };
        tag.purposes
            .iter()
            .any(|purpose| self.policy.purposes.contains_key(purpose))
            && self.finds(index, clock)
            && collected.is_none_or(|clock| self.finds(index, clock))
            && tag
                .minimums
                .iter()
                .all(|minimum| self.policy.minimums.contains_key(&minimum.name) && finds(minimum))
            && tag
                .maximums
                .iter()
                .all(|maximum| self.policy.maximums.contains_key(&maximum.name) && finds(maximum))
            && method_fits
    }

    // ----- whom a row is about -----

    /// The foreign key that leads to the subject's table.
    fn way(&self, table: usize) -> Option<&ForeignKey> {
        let subject = self.governing(table).tag.as_ref()?.subject.as_ref()?;
        self.foreign_keys.iter().find(|key| {
            subject.via && self.is_within(table, key.child) && key.columns == subject.columns
        })
    }

    /// The columns of the table itself that say the subject's key: those of its own key, or those of a foreign key
    /// whose values are the subject's key.
    fn said_by(&self, table: usize) -> Option<Vec<String>> {
        let Some(way) = self.way(table) else {
            let subject = self.governing(table).tag.as_ref()?.subject.as_ref()?;
            return Some(subject.columns.clone());
        };
        let mut said = Vec::new();
        for wanted in self.said_by(way.parent)? {
            let at = way
                .parent_columns
                .iter()
                .position(|column| *column == wanted)?;
            said.push(way.columns[at].clone());
        }
        Some(said)
    }

    /// The subject of a row: its kind and key.
    pub fn subject(&self, row: &Row) -> Option<(String, Vec<String>)> {
        let subject = self.governing(row.table).tag.as_ref()?.subject.as_ref()?;
        let Some(columns) = self.said_by(row.table) else {
            return self.subject(self.follow(row, self.way(row.table)?)?);
        };
        let mut key = Vec::new();
        for column in columns {
            match row.value(&column) {
                Value::Text(text) => key.push(text.clone()),
                _ => return None,
            }
        }
        Some((subject.kind.clone(), key))
    }

    // ----- rule 1: what covers a cell -----

    /// Rule 8: the shortest period in force at any time since the row was collected; without a known time of
    /// collection the shortest ever. What is shortest is seen on the row: the one that ends first.
    fn period_ends(&self, purpose: &str, clock: Moment, collected: Option<Moment>) -> Moment {
        let periods = &self.policy.purposes[purpose].periods;
        let mut ends = Vec::new();
        for (at, (_, period)) in periods.iter().enumerate() {
            let replaced = periods.get(at + 1).map(|(since, _)| *since);
            let in_force_since_collected = match (replaced, collected) {
                (Some(replaced), Some(collected)) => replaced > collected,
                _ => true,
            };
            if in_force_since_collected {
                ends.push(calendar::add(clock, *period));
            }
        }
        ends.into_iter().min().unwrap_or(Moment::MAX)
    }

    /// A consent-based purpose covers while a consent lasts. No consent on record, or nobody to ask: it covers.
    fn is_consented(&self, row: &Row, purpose: &str) -> bool {
        let Some((kind, key)) = self.subject(row) else {
            return true;
        };
        let mut records = self
            .policy
            .consents
            .iter()
            .filter(|consent| {
                consent.kind == kind
                    && consent.key == key
                    && consent.purpose == purpose
                    && consent.granted <= self.now
            })
            .peekable();
        records.peek().is_none()
            || records.any(|consent| {
                consent
                    .withdrawn
                    .is_none_or(|withdrawn| withdrawn > self.now)
            })
    }

    fn covers(&self, row: &Row, tag: &CellTag, purpose: &str) -> bool {
        let Some(known) = self.policy.purposes.get(purpose) else {
            return false;
        };
        if known.ended.is_some_and(|ended| ended <= self.now) {
            return false;
        }
        if known.consent_based && !self.is_consented(row, purpose) {
            return false;
        }
        if (known.consent_based || !known.required) && self.is_erased(row) {
            return false;
        }
        let table = self.governing(row.table);
        let Some(clock) = Self::clock_of(table, tag).and_then(|clock| self.read(row, clock)) else {
            return true;
        };
        let collected = table
            .tag
            .as_ref()
            .and_then(|tag| tag.collected.as_ref())
            .and_then(|clock| self.read(row, clock));
        self.period_ends(purpose, clock, collected) > self.now
    }

    // ----- rules 10 and 11: erasure -----

    /// The kind of the column that a clock ends at.
    fn kind_of(&self, mut table: usize, clock: &Clock) -> Option<Kind> {
        for name in &clock.over {
            table = self.key_of(table, name)?.parent;
        }
        Some(self.tables[table].column(&clock.column)?.kind)
    }

    /// A row that began after an erasure is data collected anew. It began when its purposes' clocks say, and when it
    /// was collected: all of them must be known to lie before. A date must lie before as a whole day.
    fn began_before(&self, row: &Row, at: Moment) -> bool {
        let table = self.governing(row.table);
        let resolved = table
            .cells
            .iter()
            .filter(|(name, _)| self.is_resolved(row.table, name));
        let clocks = resolved.filter_map(|(_, tag)| Self::clock_of(table, tag));
        let collected = table.tag.iter().filter_map(|tag| tag.collected.as_ref());
        clocks.chain(collected).all(|clock| {
            let whole = match self.kind_of(row.table, clock) {
                Some(Kind::Date) => calendar::DAY,
                _ => 1,
            };
            self.read(row, clock)
                .is_some_and(|began| began + whole <= at)
        })
    }

    fn is_subject(&self, row: &Row, kind: &str, key: &[String]) -> bool {
        self.subject(row)
            .is_some_and(|(own, parts)| own == kind && parts == key)
    }

    /// A request that is being carried out is about all rows of its subject.
    pub fn is_erased(&self, row: &Row) -> bool {
        if self.requested(row) {
            return true;
        }
        self.policy.erasures.iter().any(|erasure| {
            erasure.at <= self.now
                && self.is_subject(row, &erasure.kind, &erasure.key)
                && self.began_before(row, erasure.at)
        })
    }

    fn requested(&self, row: &Row) -> bool {
        self.request
            .as_ref()
            .is_some_and(|(kind, key)| self.is_subject(row, kind, key))
    }

    /// Whether anything of the row may be touched at present: a request is about its subject's rows alone.
    pub fn is_concerned(&self, row: &Row) -> bool {
        self.request.is_none() || self.requested(row)
    }

    /// Carries out a request: what it ends goes at once. Gives the world after it, and what was decided.
    pub fn erase(&self, kind: &str, key: &[String]) -> (World, Decision) {
        let mut world = self.clone();
        world.request = Some((kind.to_owned(), key.to_vec()));
        let (mut after, decision) = world.sweep();
        after.request = None;
        after.policy.erasures.push(Erasure {
            kind: kind.to_owned(),
            key: key.to_vec(),
            at: self.now,
        });
        (after, decision)
    }

    /// Rule 9: a law's maximum ends every purpose's cover. A maximum whose clock has not begun has not run out.
    fn is_beyond_maximum(&self, row: &Row, tag: &CellTag) -> bool {
        tag.maximums.iter().any(|maximum| {
            self.reference_clock(row, tag, maximum)
                .is_some_and(|clock| {
                    calendar::add(clock, self.policy.maximums[&maximum.name]) <= self.now
                })
        })
    }

    /// Rule 2: one purpose is enough.
    fn is_covered(&self, row: &Row, tag: &CellTag) -> bool {
        !self.is_beyond_maximum(row, tag)
            && tag
                .purposes
                .iter()
                .any(|purpose| self.covers(row, tag, purpose))
    }

    // ----- rule 3: what keeps a cell -----

    pub(crate) fn reference_clock(
        &self,
        row: &Row,
        tag: &CellTag,
        reference: &Reference,
    ) -> Option<Moment> {
        let own = Self::clock_of(self.governing(row.table), tag);
        self.read(row, reference.clock.as_ref().or(own)?)
    }

    fn is_kept(&self, row: &Row, tag: &CellTag) -> bool {
        tag.minimums
            .iter()
            .any(|reference| self.keeps(row, tag, reference))
    }

    /// Whether this minimum or defence keeps the cell.
    pub(crate) fn keeps(&self, row: &Row, tag: &CellTag, reference: &Reference) -> bool {
        let Some(clock) = self.reference_clock(row, tag, reference) else {
            return true;
        };
        let minimum = &self.policy.minimums[&reference.name];
        let mut end = calendar::add(clock, minimum.period);
        // While the limitation period runs, suspended time does not count.
        let mut suspensions = minimum.defence.clone().unwrap_or_default();
        suspensions.sort();
        for (suspended, resumed) in suspensions {
            match resumed {
                _ if suspended >= end => {}
                None => return true,
                Some(resumed) if resumed > clock => end += resumed - suspended.max(clock),
                Some(_) => {}
            }
        }
        end > self.now
    }

    // ----- rule 6: holds -----

    pub fn is_held(&self, row: &Row) -> bool {
        self.policy.holds.iter().any(|hold| self.lies_on(hold, row))
    }

    pub(crate) fn lies_on(&self, hold: &Hold, row: &Row) -> bool {
        match hold {
            Hold::Subject { kind, key } => self.is_subject(row, kind, key),
            Hold::Table { table } => self.is_within(row.table, *table),
            Hold::Rows { table, matching } => {
                self.is_within(row.table, *table)
                    && matching
                        .iter()
                        .all(|(column, values)| match row.value(column) {
                            Value::Text(text) => values.contains(text),
                            _ => false,
                        })
            }
        }
    }

    // ----- the decision -----

    fn state(&self, row: &Row, name: &str, tag: &CellTag) -> State {
        if !self.is_resolved(row.table, name) {
            return State::Unresolved;
        }
        if self.is_held(row) {
            return State::Held;
        }
        if self.is_covered(row, tag) {
            return State::Active;
        }
        if self.is_kept(row, tag) {
            return State::Blocked;
        }
        // It is as its method leaves it. Where there is no value, every method leaves it so.
        match &tag.method {
            Some(left) if left == row.value(name) => State::Disposed,
            Some(_) if *row.value(name) == Value::Null => State::Disposed,
            _ => State::Due,
        }
    }

    /// Rule 5 without its last condition: a table that deletes, at least one tagged cell, all past, nothing that
    /// keeps one.
    fn could_go(&self, row: &Row, states: &BTreeMap<String, State>) -> bool {
        Self::deletes(self.governing(row.table))
            && !states.is_empty()
            && states
                .values()
                .all(|state| matches!(state, State::Due | State::Disposed))
    }

    /// Whether some row refers to this one that neither goes, too, nor may go along as `declared`. `along` are the
    /// tables whose rows go along already.
    fn is_kept_by_others(
        &self,
        parent: usize,
        declared: &[String],
        deleted: &BTreeSet<usize>,
        along: &[usize],
    ) -> bool {
        (0..self.rows.len()).any(|child| {
            child != parent
                && !deleted.contains(&child)
                && self.foreign_keys.iter().any(|key| {
                    self.refers(key, &self.rows[child], &self.rows[parent])
                        && !self.goes_along(child, key, declared, deleted, along)
                })
        })
    }

    /// Whether a row that refers to one that goes may go along, or lose the values of its key: its table is not tagged
    /// and was declared, no hold lies on it, and nothing keeps it in turn.
    fn goes_along(
        &self,
        row: usize,
        key: &ForeignKey,
        declared: &[String],
        deleted: &BTreeSet<usize>,
        along: &[usize],
    ) -> bool {
        let table = &self.tables[key.child];
        let is_tagged = table.label().is_some() || !table.cells.is_empty();
        if is_tagged
            || !declared.contains(&table.name)
            || along.contains(&key.child)
            || self.is_held(&self.rows[row])
        {
            return false;
        }
        match key.on_delete {
            OnDelete::NoAction | OnDelete::Restrict => false,
            OnDelete::SetNull | OnDelete::SetDefault => true,
            OnDelete::Cascade => {
                let mut along = along.to_vec();
                along.push(key.child);
                !self.is_kept_by_others(row, declared, deleted, &along)
            }
        }
    }

    pub fn decide(&self) -> Decision {
        let states: Vec<BTreeMap<String, State>> = self
            .rows
            .iter()
            .map(|row| {
                let cells = &self.governing(row.table).cells;
                cells
                    .iter()
                    .map(|(name, tag)| (name.clone(), self.state(row, name, tag)))
                    .collect()
            })
            .collect();
        let mut deleted: BTreeSet<usize> = (0..self.rows.len())
            .filter(|at| self.is_concerned(&self.rows[*at]))
            .filter(|at| self.could_go(&self.rows[*at], &states[*at]))
            .collect();
        // Rule 5's last condition: whatever refers to the row goes, too. The largest set for which that is true:
        // rows of a circle go together.
        loop {
            let stays = deleted.iter().copied().find(|parent| {
                let table = self.governing(self.rows[*parent].table);
                let declared = table.tag.as_ref().map(|tag| tag.dependents.as_slice());
                self.is_kept_by_others(*parent, declared.unwrap_or_default(), &deleted, &[])
            });
            match stays {
                Some(row) => deleted.remove(&row),
                None => break,
            };
        }
        Decision { states, deleted }
    }

    /// Disposes of what is due. Gives the world after it, and the decision that it made happen.
    pub fn sweep(&self) -> (World, Decision) {
        let decision = self.decide();
        let mut after = self.clone();
        let rows = after.rows.iter_mut().zip(&decision.states);
        for (row, states) in rows.filter(|(row, _)| self.is_concerned(row)) {
            let cells = &self.governing(row.table).cells;
            for (name, state) in states {
                if let (State::Due, Some(left)) = (state, &cells[name].method) {
                    row.values.insert(name.clone(), left.clone());
                }
            }
        }
        after.delete(&decision.deleted);
        (after, decision)
    }
}
