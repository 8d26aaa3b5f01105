//! The argument grammar (commands §2): tokens from left to right, flags and positionals in any order.

use super::{Flag, Kind};

/// What the command line said. Occurrences stay in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parsed {
    /// Flags given, by name, with their text.
    pub(crate) flags: Vec<(&'static str, String)>,
    /// Everything else.
    pub(crate) positionals: Vec<String>,
}

/// Why parsing stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ParseError {
    /// `--help` came first.
    Help,
    /// Text after `Incorrect Usage: `.
    Usage(String),
}

/// Parses what follows the command's words.
pub(crate) fn parse(tables: &[&'static [Flag]], args: &[String]) -> Result<Parsed, ParseError> {
    let find = |name: &str| tables.iter().copied().flatten().find(|f| f.name == name);
    let mut parsed = Parsed::default();
    let mut rest = args.iter();
    while let Some(token) = rest.next() {
        let t = token.trim();
        if t.is_empty() {
            parsed.positionals.push(token.clone());
            continue;
        }
        if t == "--" {
            parsed.positionals.extend(rest.by_ref().cloned());
            break;
        }
        if t == "-" {
            parsed.positionals.push("-".into());
            break;
        }
        let Some(name) = t.strip_prefix("--").or_else(|| t.strip_prefix('-')) else {
            // The built-in help command hides behind the first positional.
            if matches!(t, "help" | "h") {
                if parsed.positionals.is_empty() {
                    return Err(ParseError::Help);
                }
                parsed.positionals.push(token.clone());
                parsed.positionals.extend(rest.by_ref().cloned());
                break;
            }
            parsed.positionals.push(t.to_owned());
            continue;
        };
        if !t.starts_with("--") && !name.starts_with(char::is_alphabetic) {
            parsed.positionals.push(token.clone());
            parsed.positionals.extend(rest.by_ref().cloned());
            break;
        }
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (name, None),
        };
        if matches!(name, "help" | "h") {
            return Err(ParseError::Help);
        }
        let Some(flag) = find(name) else { return Err(ParseError::Usage(format!("flag provided but not defined: -{name}"))) };
        let text = match (flag.kind, value) {
            (Kind::Bool, None | Some("")) => "true".to_owned(),
            (_, Some(value)) => value.to_owned(),
            (_, None) => match rest.next() {
                Some(value) => value.clone(),
                None => return Err(ParseError::Usage(format!("flag needs an argument: {t}"))),
            },
        };
        if let Err(why) = super::values::check(flag.kind, &text) {
            return Err(ParseError::Usage(format!("invalid value {text:?} for flag -{name}: {why}")));
        }
        parsed.flags.push((flag.name, text));
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::super::{Flag, flag};
    use super::*;

    static TABLE: &[Flag] = &[
        flag("job", Kind::Text, &[], ""),
        flag("debug", Kind::Bool, &[], ""),
        flag("count", Kind::Int, &[], ""),
        flag("wait", Kind::Duration, &[], ""),
        flag("tag", Kind::List, &[], ""),
    ];

    type Flags = Vec<(&'static str, String)>;

    fn line(args: &[&str]) -> Result<(Flags, Vec<String>), ParseError> {
        let args: Vec<String> = args.iter().map(|s| (*s).to_owned()).collect();
        parse(&[TABLE], &args).map(|p| (p.flags, p.positionals))
    }

    fn flags(args: &[&str]) -> Flags {
        line(args).unwrap().0
    }

    fn positionals(args: &[&str]) -> Vec<String> {
        line(args).unwrap().1
    }

    #[test]
    fn one_dash_works_like_two_and_the_value_may_follow_or_be_joined() {
        for args in [&["-job", "x"][..], &["--job", "x"], &["-job=x"], &["--job=x"], &["  --job=x  "]] {
            assert_eq!(flags(args), [("job", "x".to_owned())], "{args:?}");
        }
        assert_eq!(flags(&["--job", " -y "]), [("job", " -y ".to_owned())], "a separate value is taken verbatim");
        assert_eq!(flags(&["--job="]), [("job", String::new())]);
    }

    #[test]
    fn a_boolean_never_takes_the_next_argument() {
        assert_eq!(line(&["--debug", "false"]).unwrap(), (vec![("debug", "true".into())], vec!["false".into()]));
        assert_eq!(flags(&["--debug=false"]), [("debug", "false".to_owned())]);
        assert_eq!(flags(&["--debug="]), [("debug", "true".to_owned())]);
    }

    #[test]
    fn positionals_are_trimmed_unless_nothing_is_left_or_they_follow_two_dashes() {
        assert_eq!(positionals(&["k", "  v  "]), ["k", "v"]);
        assert_eq!(positionals(&["k", ""]), ["k", ""]);
        assert_eq!(positionals(&["--", "  k ", "--job"]), ["  k ", "--job"]);
    }

    #[test]
    fn a_lone_dash_ends_everything_and_a_negative_number_ends_the_flags() {
        assert_eq!(positionals(&["-", "A=1"]), ["-"]);
        assert_eq!(positionals(&["A=1", "-"]), ["A=1", "-"]);
        assert_eq!(positionals(&["k", "-1", "--job", "x"]), ["k", "-1", "--job", "x"]);
    }

    #[test]
    fn help_wins_where_it_comes_first_and_as_first_positional() {
        assert_eq!(line(&["--help", "--nope"]), Err(ParseError::Help));
        assert_eq!(line(&["help"]), Err(ParseError::Help));
        assert_eq!(positionals(&["k", "help", "--job"]), ["k", "help", "--job"]);
    }

    #[test]
    fn errors_name_the_flag_and_the_value() {
        let usage = |args: &[&str]| match line(args) {
            Err(ParseError::Usage(text)) => text,
            other => panic!("{other:?}"),
        };
        assert_eq!(usage(&["--nope"]), "flag provided but not defined: -nope");
        assert_eq!(usage(&["--job"]), "flag needs an argument: --job");
        assert!(usage(&["--count", "x"]).starts_with("invalid value \"x\" for flag -count: "));
        assert!(usage(&["--debug=yes"]).starts_with("invalid value \"yes\" for flag -debug: "));
        assert!(usage(&["--wait=10"]).starts_with("invalid value \"10\" for flag -wait: "));
    }

    #[test]
    fn repeated_flags_stay_in_order() {
        assert_eq!(flags(&["--tag", "a,b", "--tag=c"]), [("tag", "a,b".to_owned()), ("tag", "c".to_owned())]);
    }
}
