//! The member of a document that lists the publications whose subscribers dispose by themselves. Pure.

use super::diff::{Change, Op};
use super::parse::Wanted;
use super::state::{State, subscribers_json};

/// The changes of what is declared. That a partition goes without its subscribers being told loosens.
pub fn changes(state: &State, wanted: &Wanted) -> Vec<Change> {
    let object = |name: &str| format!("subscriber disposal {name}");
    let mut found = Vec::new();
    for (name, reason) in &wanted.subscribers {
        let old = state.subscribers.get(name);
        if old == Some(reason) {
            continue;
        }
        found.push(Change {
            object: object(name),
            change: "declare",
            before: old.map(|reason| subscribers_json(reason)),
            after: Some(subscribers_json(reason)),
            loosens: old.is_none(),
            op: Op::Subscribers {
                publication: name.clone(),
                reason: Some(reason.clone()),
            },
        });
    }
    let gone = state.subscribers.iter();
    for (name, reason) in
        gone.filter(|(name, _)| wanted.complete && !wanted.subscribers.contains_key(*name))
    {
        found.push(Change {
            object: object(name),
            change: "withdraw",
            before: Some(subscribers_json(reason)),
            after: None,
            loosens: false,
            op: Op::Subscribers {
                publication: name.clone(),
                reason: None,
            },
        });
    }
    found
}

/// Makes one in a policy that is only looked at.
pub fn apply(state: &mut State, publication: String, reason: Option<String>) {
    match reason {
        Some(reason) => state.subscribers.insert(publication, reason),
        None => state.subscribers.remove(&publication),
    };
}
