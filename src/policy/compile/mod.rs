//! The compiler: labels, policy rows and catalog become the disposal plan of one table. Pure.
//!
//! A tag is resolved when it names at least one existing purpose, its clock can be found, and its method fits
//! the column. Everything else is kept, and a finding.

#[cfg(test)]
mod bound_tests;
mod cells;
mod circle;
#[cfg(test)]
mod circle_tests;
mod connections;
pub mod path;
mod period;
mod rows;
#[cfg(test)]
mod tests;

use std::cell;
use std::collections::BTreeMap;
use std::fmt::Write;

use sha2::{Digest, Sha256};

use crate::policy::model::{
    Clock, ErasedRows, Finding, ForeignKey, Group, Hold, HoldScope, Plan, Policy, RelId, Schema,
    Severity, SubjectKey, Table,
};
use crate::tag::grammar::{DisposalMode, RowExpiry};
use cells::{Cell, Unresolved, unresolved};
use circle::As;

pub use circle::together;
pub use connections::Connections;

/// The finding on a table of which a plan does not see all dependents.
pub const BEYOND: &str = "dependents-beyond";

/// How deep dependents of dependents are looked into: rows further down block.
const MAX_DEPTH: usize = 6;

/// How many tables are looked into as dependents of one: a condition over hundreds of tables would take longer
/// to plan than to wait for the next round, in which rows of the tables beyond are gone and block no more.
const MAX_DEPENDENTS: usize = 48;

/// Compiles the plan of the table with this OID. A table that the schema does not have, or that carries no
/// tag, gets a plan that disposes nothing.
pub fn compile(schema: &Schema, policy: &Policy, root: RelId) -> Plan {
    compile_connected(schema, &Connections::of(schema), policy, root)
}

/// The same for one of many tables of a schema, with what connects these.
pub fn compile_connected(
    schema: &Schema,
    connections: &Connections,
    policy: &Policy,
    root: RelId,
) -> Plan {
    match schema.tables.get(&root) {
        Some(table) => {
            Compiler::new(schema, connections, policy).table(table, &mut Vec::new(), As::Itself)
        }
        None => Plan::default(),
    }
}

/// The same without digests, for comparisons that look at none: these are a fifth of the work.
#[cfg(test)]
pub fn compile_undigested(schema: &Schema, policy: &Policy, root: RelId) -> Plan {
    let Some(table) = schema.tables.get(&root) else {
        return Plan::default();
    };
    let connections = Connections::of(schema);
    let mut compiler = Compiler::new(schema, &connections, policy);
    compiler.digests = false;
    compiler.table(table, &mut Vec::new(), As::Itself)
}

struct Compiler<'a> {
    schema: &'a Schema,
    connections: &'a Connections,
    policy: &'a Policy,
    /// Whether plans get their digests.
    digests: bool,
    /// How many more plans of dependents may be compiled.
    budget: cell::Cell<usize>,
    /// There are dependents that were not looked into, for their depth or their number.
    beyond: cell::Cell<bool>,
}

impl<'a> Compiler<'a> {
    fn new(schema: &'a Schema, connections: &'a Connections, policy: &'a Policy) -> Self {
        Compiler {
            schema,
            connections,
            policy,
            digests: true,
            budget: cell::Cell::new(MAX_DEPENDENTS),
            beyond: cell::Cell::new(false),
        }
    }
}

/// What the cells of one table have in common.
struct Context<'a> {
    table: &'a Table,
    findings: Vec<Finding>,
}

impl Context<'_> {
    fn find(
        &mut self,
        severity: Severity,
        code: &'static str,
        column: Option<&str>,
        problem: String,
        remedy: &str,
    ) {
        let table = &self.table.ident.name;
        let mut letters = problem.chars();
        let mut problem: String = letters
            .next()
            .into_iter()
            .flat_map(char::to_uppercase)
            .chain(letters)
            .collect();
        problem.push('.');
        let finding = Finding {
            severity,
            code,
            object: column.map_or_else(|| table.clone(), |column| format!("{table}.{column}")),
            problem,
            remedy: remedy.to_owned(),
        };
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }
}

/// Whether the table's tag has its rows deleted.
pub fn deletes(table: &Table) -> bool {
    table.tag.as_ref().and_then(|tag| tag.on_expiry) == Some(RowExpiry::Delete)
}

fn mode(table: &Table) -> DisposalMode {
    table
        .tag
        .as_ref()
        .and_then(|tag| tag.disposal)
        .unwrap_or(DisposalMode::On)
}

impl Compiler<'_> {
    fn table(&self, table: &Table, stack: &mut Vec<RelId>, as_what: As) -> Plan {
        let mut context = Context {
            table,
            findings: table.findings.clone(),
        };
        let mut unresolved_columns = BTreeMap::new();
        for (column, why) in &table.unreadable {
            context.find(
                Severity::Error,
                "label-unreadable",
                Some(column),
                format!("its label cannot be read: {why}"),
                "Set the tag again with custodian.tag_column() or custodian.tag_table().",
            );
            unresolved_columns.insert(column.clone(), why.clone());
        }

        let subject = self.subject(&mut context);
        let mut cells = Vec::new();
        for (name, tag) in &table.column_tags {
            if unresolved_columns.contains_key(name) {
                continue;
            }
            let resolved = match &subject {
                Err(why) => vec![(
                    name.clone(),
                    Err(unresolved(
                        why.clone(),
                        "Correct the subject with custodian.tag_table(). Until then legal holds cannot be honoured here, and nothing is disposed.",
                    )),
                )],
                Ok(subject) => self.column_cells(&mut context, name, tag, subject.as_ref()),
            };
            for (name, cell) in resolved {
                match cell {
                    Ok(cell) => cells.push(cell),
                    Err(Unresolved { problem, remedy }) => {
                        unresolved_columns.insert(name.clone(), problem.clone());
                        context.find(
                            Severity::Error,
                            "tag-unresolved",
                            Some(&name),
                            format!("kept, since its tag is not resolved: {problem}"),
                            &remedy,
                        );
                    }
                }
            }
        }
        let subject = subject.unwrap_or_default();

        let collected = table
            .tag
            .as_ref()
            .and_then(|tag| tag.collected.as_ref())
            .and_then(|text| path::clock(self.schema, table, text, false).ok());
        let mut groups = group(cells);
        if let Some(subject) = &subject {
            note_erasures(&mut groups, subject, collected.as_ref());
        }
        self.late_with_row(&mut context, &groups);
        let mut delete_rows = deletes(table) && !groups.is_empty() && unresolved_columns.is_empty();
        if let Some((why, remedy)) = table.refused.delete.as_ref().filter(|_| delete_rows) {
            delete_rows = false;
            context.find(
                Severity::Error,
                "rows-undeletable",
                None,
                format!("its rows become shells: {why}"),
                remedy,
            );
        }
        let mut dependents = Vec::new();
        let mut circle = Vec::new();
        let mut peers = Vec::new();
        if delete_rows {
            match as_what {
                As::Itself => {
                    circle = self.circle(&mut context);
                    dependents = self.dependents(&mut context, &circle, stack);
                    peers = self.peers(table, &circle, stack);
                }
                As::Peer(circle) => dependents = self.dependents(&mut context, circle, stack),
            }
        }

        if stack.is_empty() && matches!(as_what, As::Itself) && self.beyond.get() {
            context.find(
                Severity::Notice,
                BEYOND,
                None,
                format!("of what refers to its rows no more than {MAX_DEPTH} tables in a row and {MAX_DEPENDENTS} in all are looked into: rows that what lies beyond refers to count as kept by it, in previews, too, though sweeps come to these tables first"),
                "Preview the tables that refer to it by themselves, and it again once their rows are gone.",
            );
        }
        let mut plan = Plan {
            table: table.id,
            ident: table.ident.clone(),
            leaves: table.leaves.clone(),
            family: table.family.clone(),
            columns: table
                .columns
                .iter()
                .map(|column| (column.ident.name.clone(), column.ident.clone()))
                .collect(),
            groups,
            unresolved: unresolved_columns,
            delete_rows,
            subject,
            collected,
            dependents,
            circle,
            peers,
            declared: false,
            findings: context.findings,
            digest: String::new(),
            mark: String::new(),
            indexed: table
                .columns
                .iter()
                .filter(|column| column.indexed)
                .map(|column| column.ident.quoted.clone())
                .collect(),
        };
        if self.digests {
            plan.digest = digest(&plan);
            plan.mark = mark(&plan);
        }
        plan
    }

    fn subject(&self, context: &mut Context) -> Result<Option<SubjectKey>, String> {
        let table = context.table;
        let Some(tag) = table.tag.as_ref().and_then(|tag| tag.subject.as_ref()) else {
            let holds = self
                .policy
                .holds
                .iter()
                .any(|hold| matches!(hold.scope, HoldScope::Subject { .. }));
            if holds && !table.column_tags.is_empty() {
                context.find(
                    Severity::Warning,
                    "subject-unknown",
                    None,
                    "its tag names no subject, so legal holds on a subject do not reach it".to_owned(),
                    "Say whom its rows are about with custodian.tag_table(…, subject_kind => …), or hold the table.",
                );
            }
            return Ok(None);
        };
        let subject = path::subject(self.schema, table, tag)?;
        let columns = subject.columns.len();
        let misfit = |hold: &Hold| match &hold.scope {
            HoldScope::Subject { kind, key } => {
                (key.len() != columns && *kind == subject.kind).then_some(key.len())
            }
            _ => None,
        };
        let holds = &self.policy.holds;
        // There may be thousands, of which none is one that misfits.
        if holds.kinds().iter().any(|hold| misfit(hold).is_some()) {
            for (hold, values) in holds.iter().filter_map(|hold| Some((hold, misfit(hold)?))) {
                context.find(
                    Severity::Error,
                    "hold-mismatch",
                    None,
                    format!(
                        "hold {} names a subject by {values} values, the table by {columns} columns: the whole table is held",
                        hold.id,
                    ),
                    "Release the hold and place it again with a complete key.",
                );
            }
        }
        Ok(Some(subject))
    }
}

/// Puts cells that share covers, keeps and limits into one group.
fn group(cells: Vec<Cell>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for cell in cells {
        match groups.iter_mut().find(|group| {
            group.covers == cell.covers && group.keeps == cell.keeps && group.limits == cell.limits
        }) {
            Some(group) => group.columns.push(cell.column),
            None => groups.push(Group {
                columns: vec![cell.column],
                covers: cell.covers,
                keeps: cell.keeps,
                limits: cell.limits,
                erasure: None,
            }),
        }
    }
    groups
}

/// Says for the groups whose covers erasures end how rows of erased subjects are told.
fn note_erasures(groups: &mut [Group], subject: &SubjectKey, collected: Option<&Clock>) {
    let ends = |group: &Group| group.covers.iter().any(|cover| cover.ends_on_erasure);
    if !groups.iter().any(ends) {
        return;
    }
    let mut clocks: Vec<Clock> = Vec::new();
    let all = groups.iter().flat_map(|group| &group.covers);
    for clock in all.map(|cover| &cover.clock).chain(collected) {
        let same = |known: &Clock| known.path == clock.path && known.column == clock.column;
        if !clocks.iter().any(same) {
            clocks.push(clock.clone());
        }
    }
    for group in groups.iter_mut().filter(|group| ends(group)) {
        group.erasure = Some(ErasedRows {
            subject: subject.clone(),
            clocks: clocks.clone(),
        });
    }
}

/// SHA-256 over everything that decides what is due, and how it is disposed.
fn digest(plan: &Plan) -> String {
    sha256(plan, &plan.groups, |plan| &plan.digest)
}

/// The same without the periods and ends of purposes and the suspensions of defences: whoever changes these
/// reopens what they make due.
fn mark(plan: &Plan) -> String {
    let mut groups = plan.groups.clone();
    for group in &mut groups {
        for cover in &mut group.covers {
            cover.periods.clear();
            cover.history.clear();
            cover.collected = None;
            cover.ended_at = None;
        }
        for keep in &mut group.keeps {
            keep.suspensions.clear();
        }
    }
    sha256(plan, &groups, |plan| &plan.mark)
}

fn sha256(plan: &Plan, groups: &[Group], of: impl Fn(&Plan) -> &String) -> String {
    let dependents: Vec<(&ForeignKey, bool, Option<&String>)> = plan
        .dependents
        .iter()
        .map(|dependent| {
            (
                &dependent.foreign_key,
                dependent.reflexive,
                dependent.plan.as_deref().map(&of),
            )
        })
        .collect();
    let mut text = Digested(Sha256::new());
    // It takes whatever is written.
    let _ = write!(
        text,
        "{:?}",
        (
            &plan.ident,
            groups,
            &plan.collected,
            plan.delete_rows,
            &plan.subject,
            dependents,
            &plan.circle,
            plan.peers.iter().map(&of).collect::<Vec<_>>(),
            plan.declared,
        )
    );
    hex::encode(text.0.finalize())
}

/// A text that nobody keeps, but for its digest.
struct Digested(Sha256);

impl Write for Digested {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.update(text);
        Ok(())
    }
}
