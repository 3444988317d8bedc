//! Parses the language of `xl.cfg` (`tools/libs/util/libxlu_cfg_{l.l,y.y}`, Xen 4.17), without
//! `+=`, settings that are made twice, lists in lists, and escapes other than of quotes and `\`: a
//! reader could take each for something else than xl does.

use std::collections::BTreeMap;

use super::mistake::Mistake;

/// The value of a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// A string or a number: to xl a number is the string of its digits.
    Text(String),
    /// A list of them.
    List(Vec<String>),
}

/// A setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub line: usize,
    pub value: Value,
}

/// The settings by their keys.
pub(super) type Settings = BTreeMap<String, Setting>;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Text(String),
    Equals,
    Open,
    Close,
    Comma,
    End,
}

/// Parses the text of a configuration.
pub(super) fn parse(text: &str) -> Result<Settings, Mistake> {
    // xl also takes an assignment without an end as the last line.
    let mut tokens = tokens(text)?;
    tokens.push((text.lines().count().max(1), Token::End));
    let mut tokens = tokens.into_iter().peekable();
    let mut settings = Settings::new();
    while let Some((line, token)) = tokens.next() {
        let key = match token {
            Token::End => continue,
            Token::Word(key) => key,
            _ => return Err(Mistake::at(line, "a setting begins with a key, such as `memory = 16`")),
        };
        if !matches!(tokens.next(), Some((_, Token::Equals))) {
            return Err(Mistake::at(line, format!("`{key}` needs `=` and a value")));
        }
        let value = value(&key, line, &mut tokens)?;
        if !matches!(tokens.next(), Some((_, Token::End))) {
            return Err(Mistake::at(line, format!("there is more after the value of `{key}`: end the line there")));
        }
        if let Some(first) = settings.insert(key.clone(), Setting { line, value }) {
            let first = first.line;
            return Err(Mistake::at(line, format!("`{key}` is set in line {first} too: keep one of them")));
        }
    }
    Ok(settings)
}

fn value(
    key: &str,
    line: usize,
    tokens: &mut std::iter::Peekable<impl Iterator<Item = (usize, Token)>>,
) -> Result<Value, Mistake> {
    let wrong = |line, what: &str| Mistake::at(line, format!("the value of `{key}` {what}"));
    match tokens.next() {
        Some((_, Token::Text(text))) => return Ok(Value::Text(text)),
        Some((_, Token::Open)) => {}
        _ => return Err(wrong(line, "is not a number, a text in quotes, or a list in [ ]")),
    }
    let mut list = Vec::new();
    let mut separated = true;
    while let Some((line, token)) = tokens.next() {
        match token {
            // Lines may end within a list.
            Token::End if tokens.peek().is_some() => {}
            Token::End => break,
            Token::Close => return Ok(Value::List(list)),
            Token::Comma if !separated => separated = true,
            Token::Text(text) if separated => {
                separated = false;
                list.push(text);
            }
            Token::Open => return Err(wrong(line, "is a list of lists: write it as a list of texts")),
            _ => return Err(wrong(line, "is a list with something else than texts between commas")),
        }
    }
    Err(wrong(line, "is a list without its end: write `]`"))
}

fn tokens(text: &str) -> Result<Vec<(usize, Token)>, Mistake> {
    let mut found = Vec::new();
    for (line, text) in text.split('\n').enumerate().map(|(at, text)| (at + 1, text)) {
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let (token, length) = match c {
                ' ' | '\t' => (None, 1),
                '#' => (None, rest.len()),
                '=' => (Some(Token::Equals), 1),
                '[' => (Some(Token::Open), 1),
                ']' => (Some(Token::Close), 1),
                ',' => (Some(Token::Comma), 1),
                ';' => (Some(Token::End), 1),
                '"' | '\'' => {
                    let (text, length) = quoted(rest, c).map_err(|reason| Mistake::at(line, reason))?;
                    (Some(Token::Text(text)), length)
                }
                'a'..='z' => {
                    let (word, length) =
                        run(rest, |c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '.'));
                    (Some(Token::Word(word)), length)
                }
                '0'..='9' => {
                    let (word, length) = run(rest, |c| matches!(c, '0'..='9' | 'a'..='f' | 'x'));
                    (Some(Token::Text(word)), length)
                }
                '+' => return Err(Mistake::at(line, "`+=` is not judged: write the whole value in one setting")),
                other => return Err(Mistake::at(line, format!("xl does not read the character {other:?} here"))),
            };
            found.extend(token.map(|token| (line, token)));
            rest = rest.get(length..).unwrap_or_default();
        }
        found.push((line, Token::End));
    }
    Ok(found)
}

/// Returns the characters at the start of `text` that belong to a word, and their number in bytes.
fn run(text: &str, belongs: impl Fn(char) -> bool) -> (String, usize) {
    let word: String = text.chars().take_while(|c| belongs(*c)).collect();
    let length = word.len();
    (word, length)
}

/// Returns a text in quotes at the start of `text`, and its length with the quotes, in bytes.
fn quoted(text: &str, quote: char) -> Result<(String, usize), String> {
    let mut out = String::new();
    let mut characters = text.char_indices().skip(1);
    while let Some((at, c)) = characters.next() {
        match c {
            c if c == quote => return Ok((out, at + 1)),
            '\\' => match characters.next() {
                Some((_, c @ ('"' | '\'' | '\\'))) => out.push(c),
                _ => return Err("only quotes and `\\` may follow a `\\`: write the character itself".to_owned()),
            },
            c if c.is_ascii_graphic() || c == ' ' => out.push(c),
            c => return Err(format!("the character {} in a text: use visible ASCII", c.escape_unicode())),
        }
    }
    Err(format!("a text begins with {quote} and does not end in the line: write {quote} at its end"))
}
