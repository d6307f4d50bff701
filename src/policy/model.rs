//! The plain data a decision is made from: what the catalog says about tables ([`Schema`]), what the policy
//! tables say ([`Policy`]), and what compiling both gives ([`Plan`]). Pure: no server, no SQL execution.
//!
//! Identifiers arrive already quoted by the server, so that rendering never quotes by itself.

use std::collections::{BTreeMap, BTreeSet};

use crate::anonymize::method::Method;
use crate::policy::holds::Holds;
use crate::policy::period::{Instant, Period};
use crate::tag::grammar::{ColumnTag, TableTag};
use crate::tag::names;

/// A relation's OID: only ever kept for as long as a plan lives.
pub type RelId = u32;

/// A name as it is, and as the server quotes it in SQL. For relations both are schema-qualified.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ident {
    pub name: String,
    pub quoted: String,
}

/// What of a column's type matters to clocks and methods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TypeClass {
    /// text, varchar, bpchar, citext; `max` is the declared length, if there is one.
    Text {
        max: Option<i32>,
    },
    Integer,
    Numeric,
    Float,
    Boolean,
    Date,
    Timestamp,
    TimestampTz,
    Inet,
    Cidr,
    Uuid,
    Bytea,
    Json,
    Array,
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub ident: Ident,
    pub attnum: i16,
    /// `format_type` output, to write casts with.
    pub type_name: String,
    pub class: TypeClass,
    /// The type's modifier below all domains: -1 without any.
    pub typmod: i32,
    /// The name of the type below all domains: `jsonb`, `citext`, …
    pub base: String,
    /// What is known to refuse what the method of the column's tag writes, in words: a CHECK constraint of the
    /// table, or the type.
    pub refused_by: Option<String>,
    pub not_null: bool,
    /// GENERATED ALWAYS AS (…) STORED.
    pub generated: bool,
    /// GENERATED … AS IDENTITY.
    pub identity: bool,
    /// Part of a primary key, or of a unique or exclusion constraint or index.
    pub in_unique: bool,
    /// Part of a unique index that is NULLS NOT DISTINCT.
    pub unique_nulls_equal: bool,
    /// Part of a foreign key of the table.
    pub in_foreign_key: bool,
    /// Referenced by a foreign key, or part of one that is MATCH FULL over several columns: no method may
    /// change it by itself.
    pub referenced: bool,
    /// Mentioned by a CHECK constraint, or of a domain that has one, of which it is not known whether it accepts
    /// what the method of the column's tag writes.
    pub in_check: bool,
    /// Part of the partition key of the table or of one of its ancestors.
    pub in_partition_key: bool,
    /// A B-tree index over all rows begins with it.
    pub indexed: bool,
}

impl Column {
    /// A column of this type, without a modifier, that is in no constraint or index.
    pub fn plain(ident: Ident, attnum: i16, type_name: &str, class: TypeClass) -> Column {
        Column {
            ident,
            attnum,
            type_name: type_name.to_owned(),
            class,
            typmod: -1,
            base: String::new(),
            refused_by: None,
            not_null: false,
            generated: false,
            identity: false,
            in_unique: false,
            unique_nulls_equal: false,
            in_foreign_key: false,
            referenced: false,
            in_check: false,
            in_partition_key: false,
            indexed: false,
        }
    }
}

/// What a foreign key does when the referenced row is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDelete {
    NoAction,
    Restrict,
    Cascade,
    SetNull,
    SetDefault,
}

/// A foreign key: `child.columns` refers to `parent.parent_columns`. For partitioned tables only the key that
/// was declared is listed, not its copies on the partitions. `child` and `parent` are the relations it was
/// declared on, which need not be roots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignKey {
    pub name: String,
    pub child: RelId,
    pub child_ident: Ident,
    /// A partitioned child: its rows are in its partitions.
    pub child_partitioned: bool,
    pub columns: Vec<Ident>,
    pub parent: RelId,
    pub parent_ident: Ident,
    pub parent_partitioned: bool,
    pub parent_columns: Vec<Ident>,
    /// For each pair of columns the equality operator of the key, as `OPERATOR(schema.=)`, with the parent's
    /// column on its left.
    pub operators: Vec<String>,
    pub on_delete: OnDelete,
}

/// A relation that holds rows: the table itself, a partition, an inheritance child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    pub id: RelId,
    pub ident: Ident,
    /// OID of the role that owns it: disposal happens with that role's rights.
    pub owner: u32,
    /// Itself and every relation above it: a hold on any of them lies on its rows.
    pub within: Vec<RelId>,
}

/// A table as tags see it: a relation that carries tags, with the leaves they govern. A leaf is governed by
/// the nearest tagged relation at or above it, whose tags are the effective ones: its ancestors' merged with
/// its own. Relations that foreign keys lead to are listed too, without tags and leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub id: RelId,
    pub ident: Ident,
    pub owner: u32,
    pub columns: Vec<Column>,
    pub primary_key: Vec<String>,
    pub tag: Option<TableTag>,
    pub column_tags: BTreeMap<String, ColumnTag>,
    pub leaves: Vec<Leaf>,
    /// Every relation above it.
    pub above: Vec<RelId>,
    /// Itself, every relation above it and every relation below it.
    pub family: Vec<RelId>,
    /// Relations below it carry tags of their own and govern a part of its leaves.
    pub split: bool,
    /// Columns whose label cannot be read, with the reason: kept.
    pub unreadable: BTreeMap<String, String>,
    /// What the server refuses to do with rows of a leaf.
    pub refused: Refused,
    /// What was found wrong while the table was read.
    pub findings: Vec<Finding>,
}

/// Statements that the server refuses on published rows, each with the reason and what helps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    pub update: Option<(String, String)>,
    pub delete: Option<(String, String)>,
}

impl Table {
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.ident.name == name)
    }

    /// Whether any tag, readable or not, asks for decisions about its rows.
    pub fn is_tagged(&self) -> bool {
        self.tag.is_some() || !self.column_tags.is_empty() || !self.unreadable.is_empty()
    }
}

/// The tables a compilation may look at: the tagged ones, and whatever foreign keys connect with them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schema {
    pub tables: BTreeMap<RelId, Table>,
    pub foreign_keys: Vec<ForeignKey>,
}

/// A purpose of the policy, with the history of its period (oldest first, never empty).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Purpose {
    pub name: String,
    pub basis: String,
    /// Its basis is the subject's consent: it covers only while that lasts.
    pub consent: bool,
    pub required: bool,
    pub periods: Vec<(Instant, Period)>,
    pub ended_at: Option<Instant>,
}

/// A time from one moment up to, not including, another; open at its end where that is `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub from: Instant,
    pub until: Option<Instant>,
}

/// A statutory minimum, or a claim defence (`defence`), which can be suspended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Minimum {
    pub name: String,
    pub period: Period,
    pub citation: String,
    pub defence: bool,
    /// When the running of a defence's period was suspended, in order of time and apart from each other.
    pub suspensions: Vec<Span>,
}

/// A law's maximum: no purpose covers a cell for longer than this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Maximum {
    pub name: String,
    pub period: Period,
    pub citation: String,
}

/// What a hold lies on. Keys and values are in the text form the server gives them with `DateStyle = ISO`,
/// `IntervalStyle = iso_8601`, `TimeZone = UTC`, `bytea_output = hex`, `extra_float_digits = 1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HoldScope {
    Subject {
        kind: String,
        key: Vec<String>,
    },
    Table {
        table: RelId,
    },
    Rows {
        table: RelId,
        matching: BTreeMap<String, Vec<String>>,
    },
}

/// A hold that has not been released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    pub id: i64,
    pub matter: String,
    pub scope: HoldScope,
}

/// The policy in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    pub purposes: BTreeMap<String, Purpose>,
    pub minimums: BTreeMap<String, Minimum>,
    pub maximums: BTreeMap<String, Maximum>,
    pub holds: Holds,
    /// Who ever withdrew a consent, again given or not: lets scans look for their rows. `None`: not known, or too
    /// many.
    pub withdrawn: Option<Vec<Withdrawn>>,
    /// Set while one subject is being erased: then the plan is for that subject's rows alone.
    pub erasing: Option<Erasing>,
    /// The kinds of subjects of which some were erased.
    pub erased_kinds: BTreeSet<String>,
}

/// One subject whose erasure is at work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Erasing {
    pub kind: String,
    /// The parts of its key in text form.
    pub key: Vec<String>,
    /// Only rows all of whose clocks lie before it: what was collected later is not the erasure's. `None`: all rows.
    pub before: Option<Instant>,
}

impl Policy {
    /// The same policy with other holds.
    #[must_use]
    pub fn with_holds(&self, holds: impl Into<Holds>) -> Policy {
        Policy {
            purposes: self.purposes.clone(),
            minimums: self.minimums.clone(),
            maximums: self.maximums.clone(),
            holds: holds.into(),
            withdrawn: self.withdrawn.clone(),
            erasing: self.erasing.clone(),
            erased_kinds: self.erased_kinds.clone(),
        }
    }

    /// The policy as an erasure applies it: purposes that are optional, or last only while the subject consents,
    /// have ended by `now`. Required ones, minimums, defences and holds stay as they are.
    #[must_use]
    pub fn erasing(mut self, erasing: Erasing, now: Instant) -> Policy {
        for purpose in self.purposes.values_mut() {
            if !purpose.required || purpose.consent {
                purpose.ended_at = Some(purpose.ended_at.map_or(now, |ended| ended.min(now)));
            }
        }
        self.erasing = Some(erasing);
        // It ends for this subject whatever those on record would.
        self.erased_kinds.clear();
        self
    }
}

/// A subject that withdrew its consent to a purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Withdrawn {
    pub purpose: String,
    pub kind: String,
    pub key: Vec<String>,
}

/// One step from a child to the row it refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    pub foreign_key: String,
    pub columns: Vec<Ident>,
    pub parent: RelId,
    pub parent_ident: Ident,
    pub parent_partitioned: bool,
    pub parent_columns: Vec<Ident>,
    /// As in [`ForeignKey`].
    pub operators: Vec<String>,
}

/// Where a period's start is read: a column of the row (`path` empty) or one reached over foreign keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clock {
    pub path: Vec<Hop>,
    pub column: Ident,
    pub class: TypeClass,
    /// The tag said that a NULL clock has not begun to run, rather than that it is a violation.
    pub null_means_not_started: bool,
}

/// A period of a purpose's history and the rows it counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoverPeriod {
    pub period: Period,
    /// Since when it is part of the policy.
    pub since: Instant,
    /// It counts for rows collected before this moment, when it was replaced, and for rows of which that is
    /// unknown. `None`: it counts for every row.
    pub collected_before: Option<Instant>,
}

/// A purpose's cover of a cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cover {
    pub purpose: String,
    /// The cover of a row ends with the first of these periods that counts for it. That is the shortest in
    /// force since the row was collected; with `collected` absent the shortest ever.
    pub periods: Vec<CoverPeriod>,
    /// Every period that the purpose ever had, and since when, oldest first: what a row was judged by before.
    pub history: Vec<(Instant, Period)>,
    pub clock: Clock,
    pub collected: Option<Clock>,
    pub ended_at: Option<Instant>,
    /// It lasts no longer than the consent of the subject found here. `None`: the purpose needs no consent, or
    /// nobody can be asked.
    pub consent: Option<SubjectKey>,
    /// It ends when its subject is erased: it is optional, or needs consent. Only where subjects of the kind were.
    pub ends_on_erasure: bool,
}

/// How rows of erased subjects are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErasedRows {
    pub subject: SubjectKey,
    /// The clocks of all purposes of the row, and its collection date: an erasure is about rows that had begun
    /// before it by all of them. Whoever signs up again begins anew.
    pub clocks: Vec<Clock>,
}

/// A minimum or claim defence that keeps a cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keep {
    pub minimum: String,
    pub citation: String,
    pub period: Period,
    pub clock: Clock,
    pub defence: bool,
    /// Time in which the period of a defence does not run.
    pub suspensions: Vec<Span>,
}

/// A maximum that limits how long purposes cover a cell. It ends no minimum, no defence and no hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    pub maximum: String,
    pub citation: String,
    pub period: Period,
    pub clock: Clock,
}

/// What happens to a cell of a resolved tag once it is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disposal {
    /// Rewritten by a method.
    Anonymize(Method),
    /// It goes when its row goes.
    WithRow,
}

/// A cell's column with how it is disposed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedColumn {
    pub ident: Ident,
    /// The keys that lead to the cell inside the column's document; empty where the whole column is the cell.
    pub path: Vec<String>,
    pub type_name: String,
    /// The type's modifier below all domains: -1 without any.
    pub typmod: i32,
    pub class: TypeClass,
    pub not_null: bool,
    pub disposal: Disposal,
}

impl PlannedColumn {
    /// The cell's name for people: the column's, with the path behind it.
    pub fn cell(&self) -> String {
        names::cell(&self.ident.name, &self.path)
    }
}

/// Cells of one table that share every decision: same covers, same keeps, same limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub columns: Vec<PlannedColumn>,
    pub covers: Vec<Cover>,
    pub keeps: Vec<Keep>,
    pub limits: Vec<Limit>,
    /// Set where erasures may have ended some of the covers.
    pub erasure: Option<ErasedRows>,
}

/// How the subject of a row is found: the columns whose values are its key, in the row itself (`path` empty)
/// or in a row reached over foreign keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectKey {
    pub kind: String,
    pub path: Vec<Hop>,
    pub columns: Vec<Ident>,
    /// The types of the columns, below all domains: `int8`, `text`, …
    pub bases: Vec<String>,
}

/// Rows of another table that refer to a row and would stand in the way of its deletion, or go with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dependent {
    pub foreign_key: ForeignKey,
    /// The child is the table itself: a row that refers to itself does not stand in its own way.
    pub reflexive: bool,
    /// The child's own plan, when its rows are deleted by policy, or what stands for one when they were declared to
    /// go with the row; without it any row of it blocks.
    pub plan: Option<Box<Plan>>,
}

/// The compiled disposal of one tagged table, for all its leaves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub table: RelId,
    pub ident: Ident,
    pub leaves: Vec<Leaf>,
    /// As in [`Table`]: a hold on any of these lies on rows of this plan.
    pub family: Vec<RelId>,
    /// Every column of the table, for holds that name some.
    pub columns: BTreeMap<String, Ident>,
    pub groups: Vec<Group>,
    /// Tagged columns that are kept because their tag is not resolved, each with the reason.
    pub unresolved: BTreeMap<String, String>,
    /// Rows are deleted once every tagged cell is past and nothing keeps one of them.
    pub delete_rows: bool,
    pub subject: Option<SubjectKey>,
    /// When a row was collected, if the table's tag says.
    pub collected: Option<Clock>,
    pub dependents: Vec<Dependent>,
    /// Foreign keys by which rows of the table and of its `peers` refer to each other. Rows that are connected by them
    /// go together, once nothing keeps one of those that refer to them over any number of steps.
    pub circle: Vec<ForeignKey>,
    /// The plans of other tables whose rows such keys connect with rows of this one, in a circle of tables: they go
    /// together. These have neither `circle` nor `peers` themselves.
    pub peers: Vec<Plan>,
    /// Not a plan of its own: untagged rows that another table's tag lets go with its rows. Only holds, and what
    /// refers to them, keep them.
    pub declared: bool,
    pub findings: Vec<Finding>,
    /// Digest of everything that decides: a run belongs to one of it.
    pub digest: String,
    /// The same without what changes by events that reopen rows themselves (periods and ends of purposes, suspensions):
    /// a watermark belongs to one of it.
    pub mark: String,
    /// Columns that an index of the table begins with. Decides nothing but how rows are looked for.
    pub indexed: BTreeSet<String>,
}

impl Plan {
    /// The plans of all tables whose rows go together with those of this one, itself first.
    pub fn together(&self) -> impl Iterator<Item = &Plan> {
        std::iter::once(self).chain(&self.peers)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Error,
    Warning,
    Notice,
}

impl Severity {
    pub const fn as_str(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Notice => "notice",
        }
    }
}

/// Something wrong that a person must see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub severity: Severity,
    /// A short stable code in kebab-case: `tag-unresolved`, `keys-missing`, …
    pub code: &'static str,
    pub object: String,
    pub problem: String,
    pub remedy: String,
}

/// The state of a cell, section by section of the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Active,
    Blocked,
    Due,
    Disposed,
    Held,
    /// Its tag is not resolved: kept, and a finding.
    Unresolved,
}

impl State {
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Active => "active",
            State::Blocked => "blocked",
            State::Due => "due",
            State::Disposed => "disposed",
            State::Held => "held",
            State::Unresolved => "unresolved",
        }
    }
}
