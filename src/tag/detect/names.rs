//! What names and comments of columns say, in English and Chinese. Pure.

use crate::tag::detect::dictionary::{ABOUT, DICTIONARY, Entry, NAME, PEOPLE};
use crate::tag::grammar::Sensitivity;

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meaning {
    pub category: &'static str,
    pub sensitivity: Sensitivity,
}

/// A word of the dictionary that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    pub word: &'static str,
    pub meaning: Meaning,
}

/// The words of an identifier, in lower case: parted at what is no letter or digit, and at capitals.
fn words(name: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut previous: Option<char> = None;
    let mut rest = name.chars().peekable();
    while let Some(c) = rest.next() {
        if !c.is_alphanumeric() {
            previous = None;
            continue;
        }
        let begins = match previous {
            None => true,
            Some(before) => {
                // `phoneNumber`, and `IPAddress` before the last capital of several.
                let lower_next = rest.peek().is_some_and(|next| next.is_lowercase());
                c.is_uppercase() && (before.is_lowercase() || before.is_uppercase() && lower_next)
                    || before.is_ascii() != c.is_ascii()
            }
        };
        if begins {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut() {
            word.extend(c.to_lowercase());
        }
        previous = Some(c);
    }
    words
}

/// Whether the words have the entry of the dictionary among them, one after the other or written as one.
fn has(words: &[String], entry: &str) -> bool {
    let parts: Vec<&str> = entry.split('_').collect();
    let in_a_row = words
        .windows(parts.len())
        .any(|window| window.iter().zip(&parts).all(|(word, part)| word == part));
    let joined = parts.concat();
    in_a_row || parts.len() > 1 && words.contains(&joined)
}

fn look_up(text: &str, words: &[String]) -> Option<Hit> {
    DICTIONARY.iter().find_map(|entry| find(entry, text, words))
}

fn find(entry: &Entry, text: &str, words: &[String]) -> Option<Hit> {
    entry
        .words
        .split_whitespace()
        .find(|word| {
            if word.is_ascii() {
                has(words, word)
            } else {
                text.contains(word)
            }
        })
        .map(|word| Hit {
            word,
            meaning: entry.meaning,
        })
}

/// What the name of a column says.
pub fn column(table: &str, column: &str) -> Option<Hit> {
    let of_column = words(column);
    let text = column.to_lowercase();
    let hit = look_up(&text, &of_column).or_else(|| {
        (of_column.len() == 1 && is_about_people(table))
            .then(|| find(&NAME, &text, &of_column))
            .flatten()
    })?;
    let about = of_column.last().is_some_and(|last| {
        ABOUT.split_whitespace().any(|about| about == last) && !hit.word.ends_with(last.as_str())
    });
    (!about).then_some(hit)
}

fn is_about_people(table: &str) -> bool {
    let of_table = words(table);
    PEOPLE.split_whitespace().any(|people| {
        of_table.iter().any(|word| word == people) || !people.is_ascii() && table.contains(people)
    })
}

/// What the comment of a column says.
pub fn comment(text: &str) -> Option<Hit> {
    let text = text.to_lowercase();
    let of_text = words(&text);
    look_up(&text, &of_text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tag::names::check_category;

    fn category(table: &str, name: &str) -> Option<&'static str> {
        column(table, name).map(|hit| hit.meaning.category)
    }

    #[test]
    fn english_names() {
        for (name, expected) in [
            ("email", "user.contact.email"),
            ("e_mail", "user.contact.email"),
            ("contactEmail", "user.contact.email"),
            ("EMAIL_ADDRESS", "user.contact.email"),
            ("phoneNumber", "user.contact.phone_number"),
            ("phonenumber", "user.contact.phone_number"),
            ("home_tel", "user.contact.phone_number"),
            ("lastName", "user.name"),
            ("IPAddress", "user.device.ip_address"),
            ("client-ip", "user.device.ip_address"),
            ("dob", "user.demographic.date_of_birth"),
            ("iban", "user.financial.bank_account"),
            (
                "id_card",
                "user.government_id.national_identification_number",
            ),
            ("password_hash", "user.authorization.credentials"),
            ("lat", "user.location.precise"),
        ] {
            assert_eq!(category("t", name), Some(expected), "{name}");
        }
    }

    #[test]
    fn chinese_names() {
        for (name, expected) in [
            ("姓名", "user.name"),
            ("客户手机号", "user.contact.phone_number"),
            ("邮箱", "user.contact.email"),
            (
                "身份证号码",
                "user.government_id.national_identification_number",
            ),
            ("银行卡号", "user.financial.bank_account"),
            ("收货地址", "user.contact.address"),
            ("出生日期", "user.demographic.date_of_birth"),
            ("登录IP", "user.device.ip_address"),
            ("电子邮件地址", "user.contact.email"),
        ] {
            assert_eq!(category("t", name), Some(expected), "{name}");
        }
    }

    #[test]
    fn what_is_about_data_is_not_the_data() {
        for name in [
            "id",
            "amount",
            "email_verified",
            "phone_type",
            "address_count",
            "emails_sent",
            "ship",
            "zipper",
            "total",
            "description",
            "latest",
            "page",
            "image",
            "stage",
            "description_ip_count",
            "数量",
            "状态",
            "备注",
        ] {
            assert_eq!(category("t", name), None, "{name}");
        }
    }

    #[test]
    fn a_name_is_personal_where_the_table_is_about_people() {
        assert_eq!(category("customer", "name"), Some("user.name"));
        assert_eq!(category("shop_users", "Name"), Some("user.name"));
        assert_eq!(category("product", "name"), None);
    }

    #[test]
    fn comments() {
        let category = |text| comment(text).map(|hit| hit.meaning.category);
        assert_eq!(
            category("the customer's e-mail"),
            Some("user.contact.email")
        );
        assert_eq!(category("联系电话"), Some("user.contact.phone_number"));
        assert_eq!(category("number of items"), None);
    }

    #[test]
    fn every_category_can_be_tagged_and_every_word_is_found_as_it_is_written() {
        for entry in DICTIONARY {
            assert_eq!(check_category(entry.meaning.category), Ok(()));
            for word in entry.words.split_whitespace() {
                assert!(column("t", word).is_some(), "{word}");
            }
        }
    }
}
