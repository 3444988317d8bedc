//! Finds the name that a mistyped one was meant to be.

/// The largest number of letters that a mistyped name has wrong.
const MISTYPED: usize = 2;
/// The longest name that is compared, in bytes.
const LONGEST: usize = 128;

/// Returns the number of letters to insert, remove or change to get from one word to the other.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, letter) in one.chars().enumerate() {
        let mut corner = line;
        let mut left = line + 1;
        for (cell, against) in row.iter_mut().skip(1).zip(&other) {
            let changed = corner + usize::from(letter != *against);
            corner = *cell;
            left = changed.min(*cell + 1).min(left + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = line + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

/// Returns the known word that differs from `word` by one or two letters, if it has more letters
/// than that.
pub(crate) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let close = |other: &&&str| {
        let lengths = word.len().abs_diff(other.len());
        lengths <= MISTYPED && word.len() <= LONGEST && word.len().min(other.len()) > MISTYPED && word != **other
    };
    let near = known.iter().filter(close).map(|other| (distance(word, other), *other));
    near.filter(|(letters, _)| *letters <= MISTYPED).min().map(|(_, other)| other)
}

/// Returns a question with the nearest known word, after a space; nothing if none is near.
pub(crate) fn did_you_mean(word: &str, known: &[&str]) -> String {
    nearest(word, known).map_or(String::new(), |near| format!(" did you mean `{near}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_with_one_or_two_wrong_letters_is_found() {
        let known = ["cloister-http", "cloister-tcpip", "a", "xenstore"];
        for (word, near) in [
            ("cloister-htttp", Some("cloister-http")),
            ("cloister-htpt", Some("cloister-http")),
            ("loister-http", Some("cloister-http")),
            ("xenstroe", Some("xenstore")),
            ("cloister-http", None),
            ("cloister-ftpd", None),
            ("b", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, &known), near, "{word}");
        }
    }

    #[test]
    fn the_distance_counts_letters() {
        for (one, other, letters) in
            [("", "", 0), ("abc", "", 3), ("", "abc", 3), ("kitten", "sitting", 3), ("a", "a", 0)]
        {
            assert_eq!(distance(one, other), letters, "{one} {other}");
        }
    }
}
