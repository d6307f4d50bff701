//! What is searched in what a peer has got: a value as text, and as it looks encoded.

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// What base64 makes of a text wherever it stands: after a multiple of three bytes, one more, and two more. Of digits that the
/// text shares with what is beside it nothing is known.
fn in_base64(text: &str) -> [String; 3] {
    [0, 1, 2].map(|before| {
        let bytes: Vec<u8> = std::iter::repeat_n(0, before).chain(text.bytes()).collect();
        let bit = |at: usize| (bytes[at / 8] >> (7 - at % 8)) & 1;
        let first = (before * 8).div_ceil(6);
        let last = bytes.len() * 8 / 6;
        (first..last)
            .map(|digit| {
                let value = (0..6).fold(0, |value, at| value << 1 | bit(digit * 6 + at));
                char::from(DIGITS[usize::from(value)])
            })
            .collect()
    })
}

/// The forms of a text that are searched.
pub fn of(text: &str) -> Vec<String> {
    let hex = |upper: bool| -> String {
        text.bytes()
            .map(|byte| match upper {
                true => format!("{byte:02X}"),
                false => format!("{byte:02x}"),
            })
            .collect()
    };
    let mut forms = vec![text.to_owned(), hex(false), hex(true)];
    forms.extend(in_base64(text));
    forms
}

#[test]
fn a_text_is_found_in_base64_wherever_it_stands() {
    assert_eq!(of("Mana")[..3], ["Mana", "4d616e61", "4D616E61"]);
    // By coreutils: printf Mana | base64, printf xMana, printf xxMana.
    assert_eq!(in_base64("Mana"), ["TWFuY", "1hbm", "NYW5h"]);
    for (whole, form) in [("TWFuYQ==", 0), ("eE1hbmE=", 1), ("eHhNYW5h", 2)] {
        let form = &in_base64("Mana")[form];
        assert!(whole.contains(form.as_str()), "{whole} {form}");
    }
}
