//! Methods on the columns that say whom a row is about. Pure.
//!
//! Once such a column is disposed of, nobody finds the row by its subject any more: a legal hold, a withdrawn consent or
//! an erasure that comes later does not reach what is left of it, nor the rows of other tables that lead there.

use crate::anonymize::method::Method;
use crate::tag::grammar::TableTag;

/// What a method does to the subjects of a table when it is on a column that says them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// The row is nobody's afterwards, or that of a pseudonym.
    Lost,
    /// Several subjects become one: what is for one of them concerns the others' rows as well.
    Merged,
}

/// What disposing of the whole `column` by the method does to the table's subjects; `None` where it does not say them.
pub fn of(tag: Option<&TableTag>, column: &str, method: &Method) -> Option<Use> {
    let subject = tag?.subject.as_ref()?;
    let mut says = subject.key.iter().chain(&subject.via).flatten();
    if !says.any(|name| name == column) {
        return None;
    }
    Some(match method {
        Method::SetNull | Method::Hmac => Use::Lost,
        Method::Constant(_)
        | Method::Truncate(_)
        | Method::Prefix(_)
        | Method::Network
        | Method::Generalize(_)
        | Method::Mask(_) => Use::Merged,
    })
}

impl Use {
    /// Completes "column …: it says whom the row is about, and …".
    pub fn consequence(self) -> &'static str {
        match self {
            Use::Lost => {
                "once its value has gone, legal holds, withdrawn consents and erasures that come later do not reach the row"
            }
            Use::Merged => {
                "its method makes one of several subjects: a hold, withdrawal or erasure of one would concern the rows of others"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tag::grammar::SubjectTag;

    fn tag(key: Option<&str>, via: Option<&str>) -> TableTag {
        let list = |name: &str| vec!["other".to_owned(), name.to_owned()];
        TableTag {
            subject: Some(SubjectTag {
                kind: "customer".to_owned(),
                key: key.map(list),
                via: via.map(list),
            }),
            ..TableTag::default()
        }
    }

    #[test]
    fn a_method_on_what_says_the_subject_loses_it_or_makes_several_one() {
        for tag in [tag(Some("id"), None), tag(None, Some("id"))] {
            let of = |column: &str, method: &Method| of(Some(&tag), column, method);
            assert_eq!(of("id", &Method::SetNull), Some(Use::Lost));
            assert_eq!(of("other", &Method::Hmac), Some(Use::Lost));
            assert_eq!(of("id", &Method::Prefix(1)), Some(Use::Merged));
            assert_eq!(
                of("id", &Method::Constant("x".to_owned())),
                Some(Use::Merged)
            );
            assert_eq!(of("email", &Method::SetNull), None);
        }
        assert_eq!(
            super::of(Some(&TableTag::default()), "id", &Method::SetNull),
            None
        );
        assert_eq!(super::of(None, "id", &Method::SetNull), None);
    }
}
