//! Values of each kind are found; ones that differ in a digit of a checked number are not.

use proptest::prelude::*;

use super::*;

/// A value and the kinds it is of.
const EXAMPLES: &[(&str, &[Kind])] = &[
    ("li.wei@example.com", &[Kind::Email]),
    ("o'neill+tag@mail.example.co.uk", &[Kind::Email]),
    ("root@localhost", &[]),
    ("a@b@c.de", &[]),
    ("Li Wei <li@example.com>", &[]),
    ("@handle", &[]),
    ("13812345678", &[Kind::Phone]),
    ("+8613812345678", &[Kind::Phone]),
    ("+86 138 1234 5678", &[Kind::Phone]),
    ("86-138-1234-5678", &[Kind::Phone]),
    ("010-62770334", &[Kind::Phone]),
    ("(0571) 8765 4321", &[]),
    ("(0571)87654321", &[Kind::Phone]),
    ("+49 30 1234567", &[Kind::Phone]),
    ("(415) 555-2671", &[Kind::Phone]),
    ("415-555-2671", &[Kind::Phone]),
    ("12812345678", &[]),
    ("2024-05-17", &[]),
    ("1234567890", &[]),
    ("+0123456789", &[]),
    ("4111111111111111", &[Kind::Card]),
    ("4111 1111 1111 1111", &[Kind::Card]),
    ("378282246310005", &[Kind::Card]),
    ("6222021234567890128", &[Kind::Card]),
    ("6222021234567890129", &[]),
    ("9111111111111111", &[]),
    ("0000000000000000", &[]),
    ("DE89370400440532013000", &[Kind::Iban]),
    ("GB82 WEST 1234 5698 7654 32", &[Kind::Iban]),
    ("DE89370400440532013001", &[]),
    ("11010519491231002X", &[Kind::ResidentId]),
    ("11010519491231002x", &[Kind::ResidentId]),
    ("110105194912310020", &[]),
    ("99010519491231002X", &[]),
    ("110105194913310021", &[]),
    ("10.1.2.3", &[Kind::Ip]),
    ("2001:db8::1", &[Kind::Ip]),
    ("10.1.2.0/24", &[Kind::Ip]),
    ("10.1.2.0/33", &[]),
    ("10.1.2", &[]),
    ("00:1A:2b:3c:4d:5e", &[Kind::Mac]),
    ("00-1A-2B-3C-4D-5E", &[Kind::Mac]),
    ("001a.2b3c.4d5e", &[Kind::Mac]),
    ("00:1A:2b:3c:4d", &[]),
    ("00:1A:2b:3c:4d:5g", &[]),
    ("39.9042,116.4074", &[Kind::Coordinates]),
    ("(116.4074,39.9042)", &[Kind::Coordinates]),
    ("-33.8688, 151.2093", &[Kind::Coordinates]),
    ("1.50,2.25", &[]),
    ("139.9042,216.4074", &[]),
    ("", &[]),
    ("hello", &[]),
];

#[test]
fn each_value_is_of_the_kinds_it_is() {
    for (value, kinds) in EXAMPLES {
        let found: Vec<Kind> = Kind::ALL
            .into_iter()
            .filter(|kind| kind.matches(value))
            .collect();
        assert_eq!(found, *kinds, "{value}");
    }
}

/// The digits with the Luhn check digit after them.
fn with_luhn(mut digits: Vec<u8>) -> Vec<u8> {
    digits.push(0);
    for check in 0..10 {
        if let Some(last) = digits.last_mut() {
            *last = check;
        }
        if luhn(&digits) {
            break;
        }
    }
    digits
}

fn text(digits: &[u8]) -> String {
    digits
        .iter()
        .map(|digit| char::from(b'0' + digit))
        .collect()
}

/// The text with the digit at `place` (counted over digits alone) changed by `by`, of one to nine.
fn changed(value: &str, place: usize, by: u8) -> String {
    let digits: Vec<usize> = value
        .char_indices()
        .filter(|(_, c)| c.is_ascii_digit())
        .map(|(at, _)| at)
        .collect();
    let at = digits[place % digits.len()];
    let mut bytes = value.as_bytes().to_vec();
    bytes[at] = (bytes[at] - b'0' + by) % 10 + b'0';
    String::from_utf8(bytes).expect("digits are ASCII")
}

/// The check character by the definition: 2^17 a(1) + … + 2^1 a(17) + a(18) = 1 modulo 11.
fn mod_11_2(digits: &str) -> char {
    let mut sum = 0u32;
    for digit in digits.bytes() {
        sum = (sum + u32::from(digit - b'0')) * 2 % 11;
    }
    match (12 - sum) % 11 {
        10 => 'X',
        digit => char::from(b'0' + digit as u8),
    }
}

/// A German IBAN by the definition: 98 minus the remainder of the account, `DE00` behind it.
fn iban(account: u64) -> String {
    let account = format!("{account:018}");
    let mut remainder = 0u32;
    for digit in format!("{account}131400").bytes() {
        remainder = (remainder * 10 + u32::from(digit - b'0')) % 97;
    }
    format!("DE{:02}{account}", 98 - remainder)
}

proptest! {
    #[test]
    fn cards_are_found_and_one_changed_digit_is_not(
        digits in prop::collection::vec(0u8..10, 14), place in 0usize..16, by in 1u8..10,
    ) {
        let mut number = vec![4];
        number.extend(digits);
        let number = text(&with_luhn(number));
        prop_assert!(is_card(&number));
        prop_assert!(!is_card(&changed(&number, place, by)));
    }

    #[test]
    fn resident_identity_numbers_are_found_and_one_changed_digit_is_not(
        region in 0u32..10_000, day in 0u32..36_500, sequence in 0u32..1000, place in 0usize..17, by in 1u8..10,
    ) {
        let born = chrono::NaiveDate::from_ymd_opt(1900, 1, 1).expect("a date")
            + chrono::Days::new(u64::from(day));
        let digits = format!("44{region:04}{}{sequence:03}", born.format("%Y%m%d"));
        let number = format!("{digits}{}", mod_11_2(&digits));
        prop_assert!(is_resident_id(&number), "{}", number);
        prop_assert!(!is_resident_id(&changed(&number, place, by)));
    }

    #[test]
    fn ibans_are_found_and_one_changed_digit_is_not(
        account in 0u64..999_999_999_999_999_999, place in 0usize..20, by in 1u8..10,
    ) {
        let number = iban(account);
        prop_assert!(is_iban(&number), "{}", number);
        prop_assert!(!is_iban(&changed(&number, place, by)));
    }

    #[test]
    fn chinese_mobile_numbers_and_addresses_are_found(rest in 300_000_000u64..1_000_000_000, ip in any::<u32>(), mac in any::<[u8; 6]>()) {
        let mobile = format!("1{rest}0");
        prop_assert!(is_phone(&mobile));
        prop_assert!(is_ip(&std::net::Ipv4Addr::from(ip).to_string()));
        let mac: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
        prop_assert!(is_mac(&mac.join(":")));
        prop_assert!(is_mac(&mac.join("-")));
    }

    #[test]
    fn any_text_is_looked_at_without_a_panic(value in any::<String>()) {
        for kind in Kind::ALL {
            kind.matches(&value);
        }
    }
}
