//! Lawful bases, by jurisdiction: data, with citations. Pure.
//!
//! Sources: Personal Information Protection Law of the People's Republic of China (PIPL), article 13,
//! paragraph 1; Regulation (EU) 2016/679 (GDPR), article 6(1); the UK GDPR, article 6(1).

use crate::error::{Error, Kind, Result};

/// A basis on which personal data may be processed in a jurisdiction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Basis {
    pub jurisdiction: &'static str,
    pub name: &'static str,
    pub citation: &'static str,
    pub meaning: &'static str,
}

const fn basis(
    jurisdiction: &'static str,
    name: &'static str,
    citation: &'static str,
    meaning: &'static str,
) -> Basis {
    Basis {
        jurisdiction,
        name,
        citation,
        meaning,
    }
}

/// Every basis known. The name `consent` means the same everywhere: the subject may withdraw it.
pub const BASES: [Basis; 19] = [
    basis(
        "cn",
        "consent",
        "PIPL art. 13(1)(1)",
        "the individual consented",
    ),
    basis(
        "cn",
        "contract",
        "PIPL art. 13(1)(2)",
        "necessary to conclude or perform a contract with the individual, or for human resources management under lawful rules",
    ),
    basis(
        "cn",
        "legal_obligation",
        "PIPL art. 13(1)(3)",
        "necessary for statutory duties or obligations",
    ),
    basis(
        "cn",
        "emergency",
        "PIPL art. 13(1)(4)",
        "necessary in a public health emergency, or to protect life, health or property in an emergency",
    ),
    basis(
        "cn",
        "public_interest",
        "PIPL art. 13(1)(5)",
        "news reporting and supervision by public opinion, within reason",
    ),
    basis(
        "cn",
        "disclosed",
        "PIPL art. 13(1)(6)",
        "disclosed by the individual, or otherwise lawfully, within reason",
    ),
    basis(
        "cn",
        "other_law",
        "PIPL art. 13(1)(7)",
        "another case provided by law or administrative regulation",
    ),
    basis(
        "eu",
        "consent",
        "GDPR art. 6(1)(a)",
        "the data subject consented",
    ),
    basis(
        "eu",
        "contract",
        "GDPR art. 6(1)(b)",
        "necessary for a contract with the data subject, or for steps before one at the subject's request",
    ),
    basis(
        "eu",
        "legal_obligation",
        "GDPR art. 6(1)(c)",
        "necessary for a legal obligation of the controller",
    ),
    basis(
        "eu",
        "vital_interests",
        "GDPR art. 6(1)(d)",
        "necessary to protect the vital interests of a person",
    ),
    basis(
        "eu",
        "public_task",
        "GDPR art. 6(1)(e)",
        "necessary for a task in the public interest or official authority",
    ),
    basis(
        "eu",
        "legitimate_interests",
        "GDPR art. 6(1)(f)",
        "necessary for legitimate interests that the subject's do not override",
    ),
    basis(
        "gb",
        "consent",
        "UK GDPR art. 6(1)(a)",
        "the data subject consented",
    ),
    basis(
        "gb",
        "contract",
        "UK GDPR art. 6(1)(b)",
        "necessary for a contract with the data subject, or for steps before one at the subject's request",
    ),
    basis(
        "gb",
        "legal_obligation",
        "UK GDPR art. 6(1)(c)",
        "necessary for a legal obligation of the controller",
    ),
    basis(
        "gb",
        "vital_interests",
        "UK GDPR art. 6(1)(d)",
        "necessary to protect the vital interests of a person",
    ),
    basis(
        "gb",
        "public_task",
        "UK GDPR art. 6(1)(e)",
        "necessary for a task in the public interest or official authority",
    ),
    basis(
        "gb",
        "legitimate_interests",
        "UK GDPR art. 6(1)(f)",
        "necessary for legitimate interests that the subject's do not override",
    ),
];

/// The basis of this name in this jurisdiction; the errors name what there is.
pub fn find(jurisdiction: &str, name: &str) -> Result<&'static Basis> {
    let here: Vec<&'static Basis> = BASES
        .iter()
        .filter(|basis| basis.jurisdiction == jurisdiction)
        .collect();
    if here.is_empty() {
        let mut known: Vec<&str> = BASES.iter().map(|basis| basis.jurisdiction).collect();
        known.dedup();
        return Err(Error::new(
            Kind::InvalidParameter,
            format!("jurisdiction \"{jurisdiction}\" is not known"),
        )
        .hint(format!("Known jurisdictions: {}.", known.join(", "))));
    }
    if let Some(basis) = here.iter().find(|basis| basis.name == name) {
        return Ok(basis);
    }
    let names: Vec<String> = here
        .iter()
        .map(|basis| format!("{} ({})", basis.name, basis.citation))
        .collect();
    let mut error = Error::new(
        Kind::InvalidParameter,
        format!("\"{name}\" is no lawful basis in jurisdiction \"{jurisdiction}\""),
    )
    .hint(format!("Lawful bases there: {}.", names.join(", ")));
    let elsewhere: Vec<&str> = BASES
        .iter()
        .filter(|basis| basis.name == name)
        .map(|basis| basis.citation)
        .collect();
    if !elsewhere.is_empty() {
        error = error.detail(format!(
            "It is one elsewhere only: {}.",
            elsewhere.join(", ")
        ));
    }
    Err(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legitimate_interests_are_no_basis_in_china() {
        let error = find("cn", "legitimate_interests").expect_err("PIPL has no such basis");
        assert_eq!(
            error.detail.as_deref(),
            Some("It is one elsewhere only: GDPR art. 6(1)(f), UK GDPR art. 6(1)(f).")
        );
        assert!(
            error
                .hint
                .is_some_and(|hint| hint.contains("PIPL art. 13(1)(1)"))
        );
        assert_eq!(
            find("eu", "legitimate_interests").map(|basis| basis.citation),
            Ok("GDPR art. 6(1)(f)")
        );
    }

    #[test]
    fn an_unknown_jurisdiction_lists_the_known_ones() {
        let error = find("xx", "consent").expect_err("there is none");
        assert_eq!(
            error.hint.as_deref(),
            Some("Known jurisdictions: cn, eu, gb.")
        );
    }

    #[test]
    fn each_jurisdiction_names_a_basis_once_and_has_consent() {
        for (index, basis) in BASES.iter().enumerate() {
            assert!(
                !BASES
                    .iter()
                    .take(index)
                    .any(|other| (other.jurisdiction, other.name)
                        == (basis.jurisdiction, basis.name))
            );
            assert!(find(basis.jurisdiction, "consent").is_ok());
        }
    }
}
