//! Tells the code of a Rust source file from its comments and literals, line for line.

/// What a part of a source file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Code,
    Comment,
    Literal,
}

/// Blanks out comments and string and character literals. Line breaks stay where they are.
#[must_use]
pub fn code_only(source: &str) -> String {
    only(source, Part::Code)
}

/// Blanks out everything but the comments. Line breaks stay where they are.
#[must_use]
pub fn comments_only(source: &str) -> String {
    only(source, Part::Comment)
}

fn only(source: &str, wanted: Part) -> String {
    let characters: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    while at < characters.len() {
        let (part, length) = part_at(&characters, at);
        let text = &characters[at..at + length];
        out.extend(text.iter().map(|c| {
            if part == wanted || *c == '\n' {
                *c
            } else {
                ' '
            }
        }));
        at += length;
    }
    out
}

/// The part that begins here, and its length. Code is taken a character at a time.
fn part_at(characters: &[char], at: usize) -> (Part, usize) {
    let rest = &characters[at..];
    let literal = match rest {
        ['/', '/', ..] => {
            let length = rest.iter().position(|c| *c == '\n');
            return (Part::Comment, length.unwrap_or(rest.len()));
        }
        ['/', '*', ..] => return (Part::Comment, block_comment(rest)),
        ['"', ..] => Some(string(rest)),
        ['r', ..] if !follows_identifier(characters, at) => raw_string(rest),
        ['\'', ..] => character(rest),
        _ => None,
    };
    literal.map_or((Part::Code, 1), |length| (Part::Literal, length))
}

fn follows_identifier(characters: &[char], at: usize) -> bool {
    // The b of br"..." belongs to the literal.
    let before = at.checked_sub(1).map(|index| characters[index]);
    let before_that = at.checked_sub(2).map(|index| characters[index]);
    match before {
        Some('b') => before_that.is_some_and(is_word),
        Some(character) => is_word(character),
        None => false,
    }
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Block comments nest.
fn block_comment(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0u32, 0);
    while at < rest.len() {
        match &rest[at..] {
            ['/', '*', ..] => {
                depth += 1;
                at += 2;
            }
            ['*', '/', ..] => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    rest.len()
}

fn string(rest: &[char]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// The length of r"..." or r#"..."#; none where it is something else that starts with r.
fn raw_string(rest: &[char]) -> Option<usize> {
    let hashes = rest[1..].iter().take_while(|c| **c == '#').count();
    if rest.get(1 + hashes) != Some(&'"') {
        return None;
    }
    let body = 2 + hashes;
    let end = (body..rest.len()).find(|at| {
        rest[*at] == '"' && rest[at + 1..].iter().take_while(|c| **c == '#').count() >= hashes
    });
    Some(end.map_or(rest.len(), |end| end + 1 + hashes))
}

/// The length of a character literal; none where the quote starts a lifetime.
fn character(rest: &[char]) -> Option<usize> {
    match rest {
        ['\'', '\\', _, tail @ ..] => {
            // Of '\'' the second quote is the character; '\u{...}' is longer.
            let more = tail.iter().take(12).position(|c| *c == '\'')?;
            Some(3 + more + 1)
        }
        ['\'', _, '\'', ..] => Some(3),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked_and_code_stays() {
        for (source, code) in [
            ("a // unsafe\nb", "a          \nb"),
            ("a /* x /* y */ z */ b", "a                   b"),
            (r#"f("unsafe \" x") + 1"#, "f(             ) + 1"),
            ("r#\"unsafe \" \"# x", "               x"),
            ("'\"' y", "    y"),
            (r"'\'' y", "     y"),
            ("fn f<'a>(x: &'a str)", "fn f<'a>(x: &'a str)"),
            ("for r in x", "for r in x"),
        ] {
            assert_eq!(code_only(source).trim_end(), code.trim_end(), "{source}");
        }
    }

    #[test]
    fn comments_are_told_from_literals_that_look_like_them() {
        assert_eq!(comments_only("f(\"// no\") // yes").trim(), "// yes");
    }

    #[test]
    fn the_lines_stay_the_lines() {
        let source = "a\n/* one\ntwo */\n\"three\nfour\"\nb";
        assert_eq!(code_only(source).lines().count(), source.lines().count());
    }

    #[test]
    fn an_unfinished_literal_does_not_stop_the_check() {
        assert_eq!(code_only("x \"unsafe").trim(), "x");
        assert_eq!(code_only("x /* unsafe").trim(), "x");
    }
}
