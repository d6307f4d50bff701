//! What a single value is. Pure.
//!
//! Sources: RFC 5321 by the crate `email_address`; ISO 13616 by `iban_validate`; ISO/IEC 7812-1 (Luhn); GB 11643-1999
//! with ISO 7064 MOD 11-2; ITU-T E.164; the numbering plan of China.

use std::net::IpAddr;
use std::str::FromStr;

use email_address::EmailAddress;
use iban::Iban;

use crate::tag::detect::names::Meaning;
use crate::tag::grammar::Sensitivity;

/// Kinds of values that can be told by their form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    ResidentId,
    Iban,
    Card,
    Email,
    Mac,
    Phone,
    Coordinates,
    Ip,
}

impl Kind {
    /// Those that prove most first.
    pub const ALL: [Kind; 8] = [
        Kind::ResidentId,
        Kind::Iban,
        Kind::Card,
        Kind::Email,
        Kind::Mac,
        Kind::Phone,
        Kind::Coordinates,
        Kind::Ip,
    ];

    /// The kind in the plural, without an article.
    pub const fn words(self) -> &'static str {
        match self {
            Kind::ResidentId => "Chinese resident identity numbers",
            Kind::Iban => "IBANs",
            Kind::Card => "payment card numbers",
            Kind::Email => "e-mail addresses",
            Kind::Mac => "MAC addresses",
            Kind::Phone => "phone numbers",
            Kind::Coordinates => "coordinates",
            Kind::Ip => "IP addresses",
        }
    }

    /// What the kind is tagged as. Sensitive is what PIPL art. 28 names, financial accounts and whereabouts among it,
    /// and what GB/T 35273-2020, appendix B adds.
    pub const fn meaning(self) -> Meaning {
        let (category, sensitivity) = match self {
            Kind::ResidentId => (
                "user.government_id.national_identification_number",
                Sensitivity::Sensitive,
            ),
            Kind::Iban => ("user.financial.bank_account", Sensitivity::Sensitive),
            Kind::Card => ("user.financial.credit_card", Sensitivity::Sensitive),
            Kind::Email => ("user.contact.email", Sensitivity::Personal),
            Kind::Mac => ("user.device.device_id", Sensitivity::Personal),
            Kind::Phone => ("user.contact.phone_number", Sensitivity::Personal),
            Kind::Coordinates => ("user.location.precise", Sensitivity::Sensitive),
            Kind::Ip => ("user.device.ip_address", Sensitivity::Personal),
        };
        Meaning {
            category,
            sensitivity,
        }
    }

    /// The part of the values, of a hundred, that must be of this kind. Where a form is hardly met by accident, few
    /// of them are enough: a column of notes with some addresses in it is personal.
    pub const fn least_percent(self) -> u64 {
        match self {
            Kind::ResidentId | Kind::Iban | Kind::Email => 5,
            Kind::Card | Kind::Mac | Kind::Phone | Kind::Coordinates | Kind::Ip => 50,
        }
    }

    /// Whether the value, without white space around it, is of this kind.
    pub fn matches(self, value: &str) -> bool {
        match self {
            Kind::ResidentId => is_resident_id(value),
            Kind::Iban => is_iban(value),
            Kind::Card => is_card(value),
            Kind::Email => is_email(value),
            Kind::Mac => is_mac(value),
            Kind::Phone => is_phone(value),
            Kind::Coordinates => is_coordinates(value),
            Kind::Ip => is_ip(value),
        }
    }
}

fn is_email(value: &str) -> bool {
    EmailAddress::from_str(value).is_ok_and(|address| {
        // A host without a dot is one inside a network: `root@localhost` is no person's address.
        address.display_part().is_empty() && address.domain().contains('.')
    })
}

fn is_iban(value: &str) -> bool {
    value.starts_with(|c: char| c.is_ascii_uppercase()) && value.parse::<Iban>().is_ok()
}

/// The digits of a number that may be grouped by single spaces or hyphens; `None` for anything else.
fn grouped_digits(value: &str) -> Option<Vec<u8>> {
    let mut digits = Vec::with_capacity(value.len());
    let mut separated = true;
    for byte in value.bytes() {
        match byte {
            b'0'..=b'9' => {
                digits.push(byte - b'0');
                separated = false;
            }
            b' ' | b'-' if !separated => separated = true,
            _ => return None,
        }
    }
    (!separated).then_some(digits)
}

/// The check of ISO/IEC 7812-1, annex B: from the right, every second digit counts twice.
fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, digit)| {
            let digit = u32::from(*digit);
            match (place % 2, digit) {
                (0, digit) => digit,
                (_, digit) if digit > 4 => digit * 2 - 9,
                (_, digit) => digit * 2,
            }
        })
        .sum();
    sum.is_multiple_of(10)
}

/// Numbers of the large networks, UnionPay among them, with the check digit right.
fn is_card(value: &str) -> bool {
    let Some(digits) = grouped_digits(value) else {
        return false;
    };
    let leading = |count: usize| {
        digits
            .iter()
            .take(count)
            .fold(0u32, |number, digit| number * 10 + u32::from(*digit))
    };
    let length = digits.len();
    let network = match (leading(2), leading(4)) {
        (34 | 37, _) => length == 15,
        (40..=49, _) => matches!(length, 13 | 16 | 19),
        (51..=55, _) | (_, 2221..=2720) => length == 16,
        (60 | 62 | 64 | 65, _) | (_, 3528..=3589) => (16..=19).contains(&length),
        (30 | 36 | 38 | 39, _) => (14..=19).contains(&length),
        _ => false,
    };
    network && luhn(&digits)
}

/// Weights of the first 17 characters: 2 to the power of 17 and down, modulo 11 (ISO 7064 MOD 11-2).
const WEIGHTS: [u32; 17] = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2];
const CHECKS: [u8; 11] = *b"10X98765432";

/// Provinces and the like in GB/T 2260, the first two digits.
const fn is_province(number: u32) -> bool {
    matches!(
        number,
        11..=15 | 21..=23 | 31..=37 | 41..=46 | 50..=54 | 61..=65 | 71 | 81..=83
    )
}

/// 18 characters: region, date of birth, sequence, check character.
fn is_resident_id(value: &str) -> bool {
    let Some((check, digits)) = value.as_bytes().split_last() else {
        return false;
    };
    if digits.len() != 17 || !digits.iter().all(u8::is_ascii_digit) {
        return false;
    }
    let number = |from: usize, count: usize| {
        digits
            .iter()
            .skip(from)
            .take(count)
            .fold(0u32, |number, digit| number * 10 + u32::from(digit - b'0'))
    };
    let born = i32::try_from(number(6, 4))
        .ok()
        .and_then(|year| chrono::NaiveDate::from_ymd_opt(year, number(10, 2), number(12, 2)));
    let sum: u32 = digits
        .iter()
        .zip(WEIGHTS)
        .map(|(digit, weight)| u32::from(digit - b'0') * weight)
        .sum();
    is_province(number(0, 2))
        && (1800..2200).contains(&number(6, 4))
        && born.is_some()
        && CHECKS.get((sum % 11) as usize) == Some(&check.to_ascii_uppercase())
}

/// International with a plus sign, Chinese mobile and fixed numbers, and North American ones with separators. Plain
/// digits are taken for a number only in the form of a Chinese mobile one: ids are digits as well.
fn is_phone(value: &str) -> bool {
    if value.len() > 24 {
        return false;
    }
    let separator = |c: char| matches!(c, ' ' | '-' | '.' | '(' | ')' | '/');
    let plain: String = value.chars().filter(|c| !separator(*c)).collect();
    if let Some(international) = plain.strip_prefix('+') {
        return value.starts_with(['+', '('])
            && (7..=15).contains(&international.len())
            && international.bytes().all(|byte| byte.is_ascii_digit())
            && !international.starts_with('0');
    }
    if !plain.bytes().all(|byte| byte.is_ascii_digit()) {
        return false;
    }
    let national = match plain.len() {
        13 => plain.strip_prefix("86").unwrap_or(&plain),
        15 => plain.strip_prefix("0086").unwrap_or(&plain),
        _ => &plain,
    };
    let mobile = national.len() == 11
        && national.starts_with('1')
        && national
            .as_bytes()
            .get(1)
            .is_some_and(|byte| (b'3'..=b'9').contains(byte));
    let groups: Vec<usize> = value
        .split(separator)
        .filter(|group| !group.is_empty())
        .map(str::len)
        .collect();
    let fixed = value.starts_with(['0', '(']) && matches!(groups[..], [3 | 4, 7 | 8]);
    let american = !value.starts_with('0') && groups == [3, 3, 4];
    mobile || fixed || american
}

fn is_ip(value: &str) -> bool {
    match value.split_once('/') {
        None => IpAddr::from_str(value).is_ok(),
        Some((address, bits)) => {
            let most = match IpAddr::from_str(address) {
                Ok(IpAddr::V4(_)) => 32,
                Ok(IpAddr::V6(_)) => 128,
                Err(_) => return false,
            };
            bits.parse::<u8>().is_ok_and(|bits| bits <= most)
        }
    }
}

/// Six or eight groups of two, or three of four, hexadecimal digits.
fn is_mac(value: &str) -> bool {
    [(':', 2, [6, 8]), ('-', 2, [6, 8]), ('.', 4, [3, 3])]
        .into_iter()
        .any(|(separator, length, counts)| {
            let groups: Vec<&str> = value.split(separator).collect();
            counts.contains(&groups.len())
                && groups.iter().all(|group| {
                    group.len() == length && group.bytes().all(|byte| byte.is_ascii_hexdigit())
                })
        })
}

/// Two decimal fractions with three places or more (about 100 metres), one a latitude; also as the type point shows
/// them.
fn is_coordinates(value: &str) -> bool {
    let value = value
        .strip_prefix('(')
        .and_then(|rest| rest.strip_suffix(')'))
        .unwrap_or(value);
    let Some((one, other)) = value.split_once([',', ';']) else {
        return false;
    };
    let degrees = |text: &str| {
        let text = text.trim();
        let (_, places) = text.split_once('.')?;
        let fine = places.len() >= 3 && places.bytes().all(|byte| byte.is_ascii_digit());
        let degrees: f64 = text.parse().ok()?;
        (fine && degrees.abs() <= 180.0).then_some(degrees.abs())
    };
    match (degrees(one), degrees(other)) {
        (Some(one), Some(other)) => one <= 90.0 || other <= 90.0,
        _ => false,
    }
}

#[cfg(test)]
#[path = "values_tests.rs"]
mod tests;
