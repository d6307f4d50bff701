//! What keeps the rows of one relation: the holds and statutory minimums that concern it, read from the
//! policy with a fresh snapshot, and the tags and keys by which its rows are told apart.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use pgrx::pg_sys;

use crate::error::{Error, Kind, Result};
use crate::guard::row::apart;
use crate::guard::row::document::Paths;
use crate::guard::row::lookup::{self, Key, Reaction, Source};
use crate::guard::row::verdict::{self, Keeper};
use crate::pg::fresh::{self, Seen};
use crate::pg::lock::{self, Mode};
use crate::pg::textform::TextForm;
use crate::pg::{inherit, relation, sandbox, sql_type};
use crate::policy::enforcement::Enforcement;
use crate::policy::model::HoldScope;
use crate::policy::period::Period;
use crate::policy::{foreign_code, hold_read};
use crate::tag::grammar::{ColumnTag, SubjectTag, TableTag};
use crate::tag::read;

/// Holds on subjects of one kind that are kept in memory; beyond that each row is looked up.
const IN_MEMORY: u32 = 1000;

/// How many of the things that keep rows an error names.
const MANY: usize = 4;

/// How many foreign keys a subject may be reached over.
const MAX_HOPS: usize = 8;

#[derive(Clone, Debug)]
pub struct Column {
    pub attnum: i16,
    pub quoted: String,
    pub type_oid: pg_sys::Oid,
    /// The type without its domains.
    pub base: pg_sys::Oid,
    pub form: TextForm,
}

/// A hold on the table, or on rows of it whose columns have given values.
#[derive(Clone, Debug)]
pub struct Held {
    pub keeper: Keeper,
    /// Empty: every row.
    pub matching: BTreeMap<String, Vec<String>>,
    /// Only rows in these relations below the one that was asked about.
    pub within: Option<Vec<pg_sys::Oid>>,
}

/// The holds on subjects of the kind that the rows are about.
#[derive(Clone, Debug)]
pub struct Subjects {
    pub kind: String,
    pub source: Source,
    /// By key; `None` when they are too many.
    pub known: Option<BTreeMap<Vec<String>, Keeper>>,
}

/// A statutory minimum on columns of the table.
#[derive(Debug)]
pub struct Kept {
    pub keeper: Keeper,
    pub columns: BTreeSet<String>,
    /// Of these the columns in which it keeps nothing but these paths.
    pub paths: BTreeMap<String, Paths>,
    /// `None` when it cannot be told until when rows are kept.
    pub rule: Option<(Period, Source)>,
    /// Somebody was warned in this transaction.
    pub warned: Cell<bool>,
}

impl Kept {
    /// Whether the minimum keeps the column, or finds its clock by it.
    pub fn concerns(&self, column: &str) -> bool {
        let clock = self.rule.as_ref().map(|(_, source)| source.own_columns());
        self.columns.contains(column)
            || clock.is_some_and(|names| names.iter().any(|name| name == column))
    }
}

/// A foreign key by which rows of a guarded table refer to this one.
#[derive(Clone, Debug)]
pub struct Reference {
    pub key: Key,
    pub child: Rc<Keeping>,
    /// The child's own guard sees what becomes of each referring row when this one is deleted, unless the
    /// triggers of foreign keys do not fire.
    pub seen_on_delete: bool,
    /// The same when the key of this one changes.
    pub seen_on_update: bool,
}

#[derive(Debug)]
pub struct Keeping {
    pub name: String,
    pub quoted: String,
    pub owner: pg_sys::Oid,
    /// It has no rows of its own, but partitions.
    pub partitioned: bool,
    pub columns: BTreeMap<String, Column>,
    pub tagged: BTreeSet<String>,
    /// The columns that may not change in a held row.
    pub protected: BTreeSet<String>,
    /// Of these the columns in which nothing but these paths may not change.
    pub paths: BTreeMap<String, Paths>,
    pub held: Vec<Held>,
    pub subjects: Option<Subjects>,
    /// Those that refuse before those that warn only: the first one that keeps a row decides about a whole table.
    pub minimums: Vec<Kept>,
    pub references: Vec<Reference>,
    /// What belongs to others of the tables that questions to this one read: its partitions, and those that subjects and
    /// clocks are reached over.
    pub strangers: Vec<pg_sys::Oid>,
}

impl Keeping {
    /// Nothing keeps any of its rows.
    pub fn keeps_nothing(&self) -> bool {
        self.held.is_empty() && self.subjects.is_none() && self.minimums.is_empty()
    }

    /// What keeps rows of the table, or rows that refer to them, each completing "is kept …": a few of them.
    pub fn keepers(&self) -> Vec<String> {
        let subjects = self.subjects.iter().flat_map(|subjects| {
            let known = subjects.known.iter().flat_map(BTreeMap::values);
            known.take(MANY).map(Keeper::phrase)
        });
        let own = self
            .held
            .iter()
            .map(|held| held.keeper.phrase())
            .chain(subjects)
            .chain(self.minimums.iter().map(|kept| kept.keeper.phrase()));
        let referring = self
            .references
            .iter()
            .flat_map(|reference| reference.child.keepers());
        let distinct: BTreeSet<String> = own.chain(referring).collect();
        distinct.into_iter().take(MANY).collect()
    }

    /// Where subjects and clocks are found.
    fn sources(&self) -> impl Iterator<Item = &Source> {
        let clocks = self.minimums.iter().filter_map(|kept| kept.rule.as_ref());
        let subjects = self.subjects.iter().map(|subjects| &subjects.source);
        subjects.chain(clocks.map(|(_, source)| source))
    }

    fn has_columns(&self, names: &[String]) -> bool {
        names.iter().all(|name| self.columns.contains_key(name))
    }

    /// Whether a hold or minimum finds what it needs over this foreign key, of the relation itself or further on.
    pub fn needs(&self, key: pg_sys::Oid) -> bool {
        self.sources().any(|source| source.keys.contains(&key))
    }

    /// Whether a hold or minimum finds what it needs in this column of another table.
    pub fn reads(&self, relation: pg_sys::Oid, column: &str) -> bool {
        self.sources().any(|source| {
            let last = source.hops.last();
            last.is_some_and(|hop| hop.parent == relation)
                && source.columns.iter().any(|name| name == column)
        })
    }

    /// Some hold may lie on its rows.
    pub fn has_holds(&self) -> bool {
        !self.held.is_empty() || self.subjects.is_some()
    }

    /// Whether the guard of the rows refuses whatever a foreign key over these columns would do to a kept row.
    fn sees(&self, reaction: Reaction, columns: &[String]) -> bool {
        let holds_see =
            || !self.has_holds() || columns.iter().all(|column| self.protected.contains(column));
        match reaction {
            Reaction::Seen => true,
            Reaction::Moved => holds_see(),
            Reaction::Emptied => self.minimums.is_empty() && holds_see(),
            Reaction::Unsure => false,
        }
    }

    /// The columns by which holds find the rows.
    fn found_by(&self) -> BTreeSet<String> {
        let mut columns: BTreeSet<String> = self
            .held
            .iter()
            .flat_map(|held| held.matching.keys().cloned())
            .collect();
        if let Some(subjects) = &self.subjects {
            columns.extend(subjects.source.own_columns().iter().cloned());
        }
        columns
    }
}

/// Takes the epoch lock of the relation's table and reads what keeps its rows. The lock stays until the
/// transaction ends, so that no hold can be placed on the table in between: what was read stays true.
pub fn load(relation: pg_sys::Oid) -> Result<Keeping> {
    let mut keeping = read_one(relation, false)?;
    for key in lookup::of_parent(relation)? {
        let child = if key.child == relation {
            read_one(relation, true)?
        } else {
            read_one(key.child, true)?
        };
        if !child.keeps_nothing() {
            let (on_delete, on_update) = lookup::reactions(&key)?;
            keeping.references.push(Reference {
                seen_on_delete: child.sees(on_delete, &key.columns),
                seen_on_update: child.sees(on_update, &key.columns),
                key,
                child: Rc::new(child),
            });
        }
    }
    Ok(keeping)
}

/// The same without what refers to the relation; with `below` also what lies on parts of it.
pub fn read_one(relation: pg_sys::Oid, below: bool) -> Result<Keeping> {
    lock::epoch(inherit::root(relation), Mode::Share)?;
    let apart = apart::above(relation)?;
    if let Some(root) = apart.last() {
        lock::epoch(*root, Mode::Share)?;
    }
    let mut lineage = vec![relation];
    lineage.extend(inherit::ancestors(relation));
    lineage.extend(apart);
    let labels = read::labels(relation);
    let tags = labels.column_tags();
    let mut keeping = describe(relation)?;
    keeping.tagged = tags.keys().cloned().collect();
    // A label that cannot be read may be a tag: its column counts as tagged.
    keeping
        .tagged
        .extend(labels.malformed.iter().filter_map(|bad| bad.column.clone()));

    let family: Vec<pg_sys::Oid> = if below {
        inherit::descendants(relation)
    } else {
        Vec::new()
    };
    for hold in hold_read::on_relations()?.holds {
        let (table, matching) = match hold.scope {
            HoldScope::Table { table } => (table, BTreeMap::new()),
            HoldScope::Rows { table, matching } => (table, matching),
            HoldScope::Subject { .. } => continue,
        };
        let table = pg_sys::Oid::from(table);
        let within = if lineage.contains(&table) {
            None
        } else if family.contains(&table) {
            let mut within = vec![table];
            within.extend(inherit::descendants(table));
            Some(within)
        } else {
            continue;
        };
        keeping.held.push(Held {
            keeper: Keeper::Hold {
                id: hold.id,
                matter: hold.matter,
            },
            matching,
            within,
        });
    }

    if labels.malformed.iter().any(|bad| bad.column.is_none())
        && !hold_read::subject_kinds()?.is_empty()
    {
        return Err(Error::new(
            Kind::NotInPrerequisiteState,
            format!("the tag of table \"{}\" cannot be read", keeping.name),
        )
        .detail("Legal holds on subjects are in force, and may lie on its rows.")
        .hint("Correct the tag with custodian.tag_table()."));
    }
    keeping.subjects = subjects(relation, labels.table.as_ref())?;

    keeping.protected = verdict::protected(
        keeping.columns.keys().map(String::as_str),
        &keeping.tagged,
        &keeping.found_by(),
    );

    let found_by = keeping.found_by();
    let by_paths = |name: &String, tag: &ColumnTag| {
        let jsonb = |column: &Column| column.base == pg_sys::JSONBOID;
        tag.derived && !found_by.contains(name) && keeping.columns.get(name).is_some_and(jsonb)
    };
    keeping.paths = tags
        .iter()
        .filter(|(name, tag)| by_paths(name, tag))
        .map(|(name, tag)| (name.clone(), paths(tag.cells().map(|(path, _)| path))))
        .collect();

    let table_clock = labels.table.as_ref().and_then(|tag| tag.clock.clone());
    // What each keeps: columns, each with the paths in it; an empty path is the whole column.
    type Cells = BTreeMap<String, Vec<Vec<String>>>;
    let mut minimums: BTreeMap<(String, Option<String>), Cells> = BTreeMap::new();
    let cells = tags
        .iter()
        .flat_map(|(column, tag)| tag.cells().map(move |(path, cell)| (column, path, cell)));
    for (column, path, tag) in cells {
        for minimum in &tag.minimums {
            let clock = minimum
                .clock
                .clone()
                .or_else(|| tag.clock.clone())
                .or_else(|| table_clock.clone());
            minimums
                .entry((minimum.name.clone(), clock))
                .or_default()
                .entry(column.clone())
                .or_default()
                .push(path.to_vec());
        }
    }
    if !minimums.is_empty() {
        let defined = definitions(minimums.keys().map(|(name, _)| name.clone()).collect())?;
        for ((name, clock), cells) in minimums {
            let warns = defined
                .get(&name)
                .is_some_and(|minimum| minimum.enforcement == Enforcement::Warn);
            let (citation, rule) = match (defined.get(&name), clock) {
                // A claim defence justifies keeping; it does not forbid the owner to delete.
                (Some(minimum), _) if minimum.defence => continue,
                (Some(minimum), Some(clock)) => (
                    minimum.citation.clone(),
                    // A clock that is not there keeps the rows, and leaves everything else alone.
                    lookup::clock(relation, &clock)
                        .ok()
                        .filter(|source| keeping.has_columns(source.own_columns()))
                        .map(|source| (minimum.period, source)),
                ),
                (Some(minimum), None) => (minimum.citation.clone(), None),
                (None, _) => (String::new(), None),
            };
            keeping.minimums.push(Kept {
                keeper: Keeper::Minimum {
                    open: rule.is_none(),
                    name,
                    citation,
                    warns,
                },
                columns: cells.keys().cloned().collect(),
                paths: cells
                    .iter()
                    .filter(|(column, _)| keeping.paths.contains_key(*column))
                    .map(|(column, list)| (column.clone(), paths(list.iter().map(Vec::as_slice))))
                    .collect(),
                rule,
                warned: Cell::new(false),
            });
        }
        keeping.minimums.sort_by_key(|kept| kept.keeper.warns());
    }
    let read = keeping
        .sources()
        .flat_map(|source| source.hops.iter().map(|hop| hop.parent))
        .chain(keeping.partitioned.then_some(relation));
    keeping.strangers = foreign_code::strangers(keeping.owner, read)?;
    Ok(keeping)
}

fn paths<'a>(list: impl Iterator<Item = &'a [String]>) -> Paths {
    let mut paths = Paths::default();
    list.for_each(|path| paths.add(path));
    paths
}

struct Definition {
    period: Period,
    citation: String,
    defence: bool,
    enforcement: Enforcement,
}

fn definitions(names: Vec<String>) -> Result<BTreeMap<String, Definition>> {
    // A database that is still to be updated from 0.1.0 has no column "enforcement": there every minimum refuses.
    let rows = sandbox::as_extension_owner(|| {
        fresh::rows(
            "SELECT name, citation, defence::int, \
             (pg_catalog.date_part('year', period) * 12 + pg_catalog.date_part('month', period))::int, \
             pg_catalog.date_part('day', period)::int, \
             (pg_catalog.date_part('hour', period)::int8 * 3600000000 \
              + pg_catalog.date_part('minute', period)::int8 * 60000000 \
              + pg_catalog.date_part('microseconds', period)::int8), \
             pg_catalog.to_jsonb(m) OPERATOR(pg_catalog.->>) 'enforcement' \
             FROM custodian.minimum m WHERE name = ANY ($1)",
            &[names.into()],
            Seen::Everything,
            0,
        )
    })?;
    rows.iter()
        .map(|row| {
            Ok((
                fresh::must(row, 0)?.to_owned(),
                Definition {
                    citation: fresh::must(row, 1)?.to_owned(),
                    defence: fresh::number::<i32>(row, 2)? != 0,
                    period: Period {
                        months: fresh::number(row, 3)?,
                        days: fresh::number(row, 4)?,
                        micros: fresh::number(row, 5)?,
                    },
                    enforcement: row
                        .get(6)
                        .and_then(Option::as_deref)
                        .and_then(Enforcement::parse)
                        .unwrap_or_default(),
                },
            ))
        })
        .collect()
}

fn subjects(relation: pg_sys::Oid, tag: Option<&TableTag>) -> Result<Option<Subjects>> {
    let Some(subject) = tag.and_then(|tag| tag.subject.as_ref()) else {
        return Ok(None);
    };
    let holds = hold_read::on_subjects(&subject.kind, IN_MEMORY + 1)?;
    if holds.is_empty() {
        return Ok(None);
    }
    let known = (holds.len() <= IN_MEMORY as usize).then(|| {
        let mut known = BTreeMap::new();
        for hold in holds {
            if let HoldScope::Subject { key, .. } = hold.scope {
                known.entry(key).or_insert(Keeper::Hold {
                    id: hold.id,
                    matter: hold.matter,
                });
            }
        }
        known
    });
    Ok(Some(Subjects {
        kind: subject.kind.clone(),
        source: subject_source(relation, subject)?,
        known,
    }))
}

/// How the key of a row's subject is found.
fn subject_source(start: pg_sys::Oid, subject: &SubjectTag) -> Result<Source> {
    let unclear = || {
        Error::new(
            Kind::NotInPrerequisiteState,
            format!(
                "the subjects of table \"{}\" cannot be found by its tag",
                relation::describe(start)
            ),
        )
        .detail(format!(
            "Legal holds on subjects of kind \"{}\" are in force, and may lie on its rows.",
            subject.kind
        ))
        .hint("Name the foreign-key columns that lead to the subject's own table with custodian.tag_table().")
    };
    let mut at = start;
    let mut tag = subject.clone();
    let mut hops: Vec<Key> = Vec::new();
    loop {
        if let Some(columns) = tag.key {
            return shorten(hops, columns);
        }
        let via = tag.via.unwrap_or_default();
        if hops.len() == MAX_HOPS {
            return Err(unclear());
        }
        let leads_on = |parent: pg_sys::Oid| -> Result<bool> {
            Ok(subject_of(parent, &subject.kind)?.is_some())
        };
        let key = lookup::key_over(at, &via, leads_on)?.ok_or_else(unclear)?;
        at = key.parent;
        tag = subject_of(at, &subject.kind)?.ok_or_else(unclear)?;
        hops.push(key);
    }
}

fn subject_of(relation: pg_sys::Oid, kind: &str) -> Result<Option<SubjectTag>> {
    Ok(read::table_tag(relation)?
        .and_then(|tag| tag.subject)
        .filter(|subject| subject.kind == kind))
}

/// Where a foreign key refers to the very columns that are wanted, the row's own columns have the same
/// values: no need to go there. Only for keys whose columns have the same type on both sides.
fn shorten(mut hops: Vec<Key>, mut columns: Vec<String>) -> Result<Source> {
    let keys = hops.iter().map(|hop| hop.constraint).collect();
    while let Some(last) = hops.last() {
        let own: Option<Vec<String>> = columns
            .iter()
            .map(|wanted| {
                let position = last.parent_columns.iter().position(|name| name == wanted)?;
                let child = last.columns.get(position)?;
                let same = attribute_type(last.parent, wanted) == attribute_type(last.child, child);
                same.then(|| child.clone())
            })
            .collect();
        match own {
            Some(own) => {
                hops.pop();
                columns = own;
            }
            None => break,
        }
    }
    Ok(Source {
        keys,
        ..Source::new(hops, columns)?
    })
}

fn attribute_type(relation: pg_sys::Oid, column: &str) -> Option<(pg_sys::Oid, i32)> {
    let attnum = relation::column_number(relation, column)?;
    let declared = sql_type::declared(relation, attnum);
    Some((declared.type_oid, declared.modifier))
}

/// A relation with its columns, and nothing that keeps its rows yet.
fn describe(relation: pg_sys::Oid) -> Result<Keeping> {
    let ident = relation::qualified(relation)?.ok_or_else(|| {
        Error::new(
            Kind::UndefinedObject,
            format!("relation {} does not exist", relation.to_u32()),
        )
    })?;
    let rows = fresh::rows(
        "SELECT c.relowner, (c.relkind = 'p')::int, a.attnum, a.attname, a.atttypid \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid \
         WHERE c.oid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
        &[relation.into()],
        Seen::Everything,
        0,
    )?;
    let mut keeping = Keeping {
        name: ident.name,
        quoted: ident.quoted,
        owner: pg_sys::Oid::INVALID,
        partitioned: false,
        columns: BTreeMap::new(),
        tagged: BTreeSet::new(),
        protected: BTreeSet::new(),
        paths: BTreeMap::new(),
        held: Vec::new(),
        subjects: None,
        minimums: Vec::new(),
        references: Vec::new(),
        strangers: Vec::new(),
    };
    for row in &rows {
        keeping.owner = fresh::oid(row, 0)?;
        keeping.partitioned = fresh::number::<i32>(row, 1)? != 0;
        let name = fresh::must(row, 3)?;
        let type_oid = fresh::oid(row, 4)?;
        keeping.columns.insert(
            name.to_owned(),
            Column {
                attnum: fresh::number(row, 2)?,
                quoted: relation::quote_identifier(name)?,
                type_oid,
                base: sql_type::base(type_oid),
                form: TextForm::of(type_oid),
            },
        );
    }
    Ok(keeping)
}
