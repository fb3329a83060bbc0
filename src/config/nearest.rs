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

/// Levenshtein's distance, one row at a time.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (line, a) in from.chars().enumerate() {
        let mut left = line + 1;
        let mut next = vec![left];
        for (pair, b) in row.windows(2).zip(&to) {
            let (diagonal, above) = match pair {
                [diagonal, above] => (*diagonal, *above),
                _ => continue,
            };
            left = (above + 1)
                .min(left + 1)
                .min(diagonal + usize::from(a != *b));
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
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
    }
}
