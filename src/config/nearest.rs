//! Which known word was meant.

/// The known word nearest to `wrong`, if one is near enough to be worth saying.
pub(super) fn nearest<'k>(wrong: &str, known: &[&'k str]) -> Option<&'k str> {
    let allowed = wrong.chars().count().max(3) / 3 + 1;
    known
        .iter()
        .map(|word| (distance(wrong, word), *word))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, word)| word)
}

/// Levenshtein's distance, where two letters that changed places are one slip; a row at a time.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let at = |row: &[usize], column: usize| row.get(column).copied().unwrap_or(usize::MAX);
    let mut above: Vec<usize> = (0..=to.len()).collect();
    // The row above that, and its letter.
    let mut before: Option<(Vec<usize>, char)> = None;
    for (line, a) in from.chars().enumerate() {
        let mut row = vec![line + 1];
        let mut last = None;
        for (column, b) in to.iter().enumerate() {
            let changed = at(&above, column) + usize::from(a != *b);
            let missing = at(&above, column + 1).min(at(&row, column)) + 1;
            let swapped = match (&before, last) {
                (Some((row, other)), Some(left)) if *other == *b && left == a => {
                    at(row, column - 1) + 1
                }
                _ => usize::MAX,
            };
            row.push(changed.min(missing).min(swapped));
            last = Some(*b);
        }
        before = Some((std::mem::replace(&mut above, row), a));
    }
    above.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_recognised() {
        let known = ["socket", "connect", "mode", "mac", "mtu"];
        assert_eq!(nearest("sokcet", &known), Some("socket"));
        assert_eq!(nearest("modes", &known), Some("mode"));
        assert_eq!(nearest("macs", &known), Some("mac"));
    }

    #[test]
    fn a_word_from_elsewhere_is_not_guessed() {
        assert_eq!(nearest("bandwidth", &["socket", "connect", "mode"]), None);
    }

    #[test]
    fn distances() {
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("same", "same"), 0);
        assert_eq!(distance("tpc", "tcp"), 1);
        assert_eq!(distance("ab", "ba"), 1);
        assert_eq!(distance("abc", "cab"), 2);
    }
}
