//! Counting a part of a leaf's blocks in place of all of them.

use crate::policy::model::Leaf;
use crate::policy::render::{ROW, Statement};

/// How every statement begins that counts the rows of a leaf with a condition, which follows.
pub fn counting(leaf: &Leaf) -> String {
    format!("SELECT count(*) FROM {} WHERE ", rows(leaf, None))
}

/// The leaf as a `FROM` item: all of it, or [a part](sampled).
pub fn rows(leaf: &Leaf, percent: Option<f64>) -> String {
    let part = percent.map_or_else(String::new, |percent| {
        format!(" TABLESAMPLE SYSTEM ({percent:.6}) REPEATABLE (0)")
    });
    format!("ONLY {} AS {ROW}{part}", leaf.ident.quoted)
}

/// The same count over about `percent` of the leaf's blocks, always the same ones while the leaf does not change
/// (`TABLESAMPLE SYSTEM`). `None` when the statement is no such count.
pub fn sampled(count: &Statement, leaf: &Leaf, percent: f64) -> Option<Statement> {
    let condition = count.sql.strip_prefix(&counting(leaf))?;
    Some(Statement {
        sql: format!(
            "SELECT count(*) FROM {} WHERE {condition}",
            rows(leaf, Some(percent))
        ),
        params: count.params.clone(),
        condition_end: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::fixture::ident;

    #[test]
    fn only_a_count_of_the_leaf_itself_is_sampled() {
        let leaf = Leaf {
            id: 1,
            ident: ident("s.t"),
            owner: 10,
            within: vec![1],
        };
        let count = Statement {
            sql: format!("{}true", counting(&leaf)),
            params: Vec::new(),
            condition_end: None,
        };
        let sample = sampled(&count, &leaf, 12.5).map(|statement| statement.sql);
        assert_eq!(
            sample.as_deref(),
            Some(
                "SELECT count(*) FROM ONLY s.t AS t TABLESAMPLE SYSTEM (12.500000) REPEATABLE (0) WHERE true"
            )
        );
        let other = Leaf {
            ident: ident("s.u"),
            ..leaf
        };
        assert_eq!(sampled(&count, &other, 12.5), None);
    }
}
