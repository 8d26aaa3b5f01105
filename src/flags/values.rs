//! Where a value comes from: command line, then environment, then configuration file, then default (start-flags §1).

use super::scalar::{GoDuration, parse_bool, parse_int};
use super::{ConfigFile, Flag, Kind, Normal, Parsed, expand_path};
use crate::cli::Failure;

/// A value with its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// [`Kind::Text`]
    Text(String),
    /// [`Kind::Bool`]
    Bool(bool),
    /// [`Kind::Int`]
    Int(i64),
    /// [`Kind::Duration`]
    Duration(GoDuration),
    /// [`Kind::List`]
    List(Vec<String>),
}

/// Which layer a value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A flag.
    CommandLine,
    /// A variable that is set, also to the empty string.
    Environment,
    /// An entry of the configuration file.
    File,
    /// Nobody set it.
    Default,
}

/// The values of all flags of a command.
#[derive(Clone, Debug, Default)]
pub(crate) struct Values {
    entries: Vec<(&'static str, Value, Source)>,
}

/// Values, and what to warn about once there is a logger.
#[derive(Clone, Debug, Default)]
pub(crate) struct Resolution {
    /// The values.
    pub(crate) values: Values,
    /// Warnings.
    pub(crate) warnings: Vec<String>,
}

/// Whether `text` is a value of this kind.
pub(crate) fn check(kind: Kind, text: &str) -> Result<(), String> {
    value(kind, text).map(|_| ())
}

fn value(kind: Kind, text: &str) -> Result<Value, String> {
    Ok(match kind {
        Kind::Text => Value::Text(text.to_owned()),
        Kind::Bool => Value::Bool(parse_bool(text)?),
        Kind::Int => Value::Int(parse_int(text)?),
        Kind::Duration => Value::Duration(GoDuration::parse(text)?),
        Kind::List => Value::List(split(text)),
    })
}

fn split(text: &str) -> Vec<String> {
    if text.is_empty() { Vec::new() } else { text.split(',').map(str::to_owned).collect() }
}

/// The value that an unset flag, or one set to the empty string where that means the default, has.
fn default(flag: &Flag) -> Value {
    let zero = || match flag.kind {
        Kind::Text => Value::Text(String::new()),
        Kind::Bool => Value::Bool(false),
        Kind::Int => Value::Int(0),
        Kind::Duration => Value::Duration(GoDuration(0)),
        Kind::List => Value::List(Vec::new()),
    };
    if flag.default.is_empty() { zero() } else { value(flag.kind, flag.default).unwrap_or_else(|_| zero()) }
}

fn zero(kind: Kind) -> Value {
    match kind {
        Kind::Text => Value::Text(String::new()),
        Kind::Bool => Value::Bool(false),
        Kind::Int => Value::Int(0),
        Kind::Duration => Value::Duration(GoDuration(0)),
        Kind::List => Value::List(Vec::new()),
    }
}

impl Values {
    /// Resolves every flag of `tables`. `env` looks a variable up. Errors are whole messages without the program's name.
    pub(crate) fn resolve(
        tables: &[&'static [Flag]],
        line: &Parsed,
        env: &dyn Fn(&str) -> Option<String>,
        file: Option<&ConfigFile>,
    ) -> Result<Resolution, String> {
        let mut done = Resolution::default();
        for flag in tables.iter().copied().flatten() {
            let (value, source) = one(flag, line, env, file, &mut done.warnings)?;
            let value = normalise(flag, value, env)?;
            done.values.entries.push((flag.name, value, source));
        }
        Ok(done)
    }

    fn entry(&self, name: &str) -> &(&'static str, Value, Source) {
        match self.entries.iter().find(|(n, _, _)| *n == name) {
            Some(e) => e,
            None => panic!("no flag {name} in this command's table"),
        }
    }

    /// A string.
    pub(crate) fn text(&self, name: &str) -> &str {
        match &self.entry(name).1 {
            Value::Text(s) => s,
            other => panic!("flag {name} is no string: {other:?}"),
        }
    }

    /// A boolean.
    pub(crate) fn bool(&self, name: &str) -> bool {
        match &self.entry(name).1 {
            Value::Bool(b) => *b,
            other => panic!("flag {name} is no boolean: {other:?}"),
        }
    }

    /// Whether the command has this boolean flag and it is set.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|(n, v, _)| *n == name && *v == Value::Bool(true))
    }

    /// An integer.
    pub(crate) fn int(&self, name: &str) -> i64 {
        match &self.entry(name).1 {
            Value::Int(n) => *n,
            other => panic!("flag {name} is no integer: {other:?}"),
        }
    }

    /// A duration.
    pub(crate) fn duration(&self, name: &str) -> GoDuration {
        match &self.entry(name).1 {
            Value::Duration(d) => *d,
            other => panic!("flag {name} is no duration: {other:?}"),
        }
    }

    /// A list.
    pub(crate) fn list(&self, name: &str) -> &[String] {
        match &self.entry(name).1 {
            Value::List(l) => l,
            other => panic!("flag {name} is no list: {other:?}"),
        }
    }

    /// Where the value came from.
    pub(crate) fn source(&self, name: &str) -> Source {
        self.entry(name).2
    }

    /// Whether anybody set it.
    pub(crate) fn given(&self, name: &str) -> bool {
        self.source(name) != Source::Default
    }

    /// The value, whatever its type.
    pub(crate) fn get(&self, name: &str) -> &Value {
        &self.entry(name).1
    }

    /// Gives a flag the value of another one, as if it came from `source`.
    pub(crate) fn give(&mut self, name: &str, value: Value, source: Source) {
        if let Some(e) = self.entries.iter_mut().find(|(n, _, _)| *n == name) {
            (e.1, e.2) = (value, source);
        }
    }

    /// The first required flag that is empty is an error (commands §5).
    pub(crate) fn check_required(&self, tables: &[&'static [Flag]], path: &str) -> Result<(), Failure> {
        let missing = tables.iter().copied().flatten().find(|f| f.required && matches!(&self.entry(f.name).1, Value::Text(s) if s.is_empty()));
        missing.map_or(Ok(()), |f| Err(Failure::missing(f.name, path)))
    }
}

fn one(
    flag: &Flag,
    line: &Parsed,
    env: &dyn Fn(&str) -> Option<String>,
    file: Option<&ConfigFile>,
    warnings: &mut Vec<String>,
) -> Result<(Value, Source), String> {
    let mut given = line.flags.iter().filter(|(name, _)| *name == flag.name).map(|(_, text)| text.as_str()).peekable();
    if given.peek().is_some() {
        // A list accumulates, any other flag takes the last occurrence. The parser has checked them all.
        let value = match flag.kind {
            Kind::List => Value::List(given.flat_map(split).collect()),
            kind => value(kind, given.last().unwrap_or_default())?,
        };
        return Ok((value, Source::CommandLine));
    }
    if let Some((variable, text)) = flag.env.iter().find_map(|e| env(e).map(|v| (*e, v))) {
        let value = match (flag.kind, text.as_str()) {
            (Kind::Bool, "") => Value::Bool(false),
            (Kind::Int | Kind::Duration | Kind::List, "") => default(flag),
            (kind, text) => value(kind, text).map_err(|why| {
                format!("could not parse {text:?} as {} value from environment variable {variable:?} for flag {}: {why}", kind.name(), flag.name)
            })?,
        };
        return Ok((value, Source::Environment));
    }
    if let Some((number, text)) = file.and_then(|f| f.get(flag.name)) {
        let value = value(flag.kind, text).unwrap_or_else(|why| {
            warnings.push(format!("Config file line {number}: the value of `{}` counts as {}: {why}", flag.name, zero_text(flag.kind)));
            zero(flag.kind)
        });
        return Ok((value, Source::File));
    }
    Ok((default(flag), Source::Default))
}

fn zero_text(kind: Kind) -> &'static str {
    match kind {
        Kind::Bool => "false",
        Kind::Duration => "0s",
        _ => "0",
    }
}

fn normalise(flag: &Flag, value: Value, env: &dyn Fn(&str) -> Option<String>) -> Result<Value, String> {
    Ok(match (flag.normal, value) {
        (Normal::Path, Value::Text(s)) => Value::Text(expand_path(&s, env, true)?),
        (Normal::Command, Value::Text(s)) => Value::Text(expand_path(&s, env, false)?),
        (Normal::Commas, Value::List(l)) => {
            Value::List(l.iter().flat_map(|e| e.split(',')).map(str::trim).filter(|e| !e.is_empty()).map(str::to_owned).collect())
        }
        (_, value) => value,
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Flag, flag, parse};
    use super::*;

    static TABLE: &[Flag] = &[
        flag("name", Kind::Text, &["NAME"], "").or("anna"),
        flag("debug", Kind::Bool, &["DEBUG"], ""),
        flag("on", Kind::Bool, &["ON"], "").or("true"),
        flag("spawn", Kind::Int, &["SPAWN"], "").or("1"),
        flag("wait", Kind::Duration, &["WAIT"], "").or("10s"),
        flag("tags", Kind::List, &["TAGS"], "").or("x,y").commas(),
        flag("raw", Kind::List, &["RAW"], ""),
        flag("no-sub", Kind::Bool, &["NO_SUB", "DISABLE_SUB"], ""),
        flag("dir", Kind::Text, &["DIR"], "").path(),
    ];

    fn resolve(args: &[&str], env: &[(&str, &str)], file: &str) -> Result<Resolution, String> {
        let args: Vec<String> = args.iter().map(|s| (*s).to_owned()).collect();
        let parsed = parse(&[TABLE], &args).unwrap();
        let file = ConfigFile::parse(file).unwrap();
        let look = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        Values::resolve(&[TABLE], &parsed, &look, Some(&file))
    }

    fn values(args: &[&str], env: &[(&str, &str)], file: &str) -> Values {
        resolve(args, env, file).unwrap().values
    }

    #[test]
    fn command_line_beats_environment_beats_file_beats_default() {
        let file = "name=file\nspawn=3\n";
        let v = values(&["--name", "line", "--name=last"], &[("NAME", "env"), ("SPAWN", "2")], file);
        assert_eq!((v.text("name"), v.source("name")), ("last", Source::CommandLine));
        assert_eq!((v.int("spawn"), v.source("spawn")), (2, Source::Environment));
        let v = values(&[], &[], file);
        assert_eq!((v.text("name"), v.int("spawn"), v.source("spawn")), ("file", 3, Source::File));
        let v = values(&[], &[], "");
        assert_eq!((v.text("name"), v.int("spawn"), v.source("spawn")), ("anna", 1, Source::Default));
        assert_eq!(v.duration("wait"), GoDuration(10_000_000_000));
    }

    #[test]
    fn an_empty_variable_counts_as_set_and_hides_the_file() {
        let file = "name=file\ndebug=true\non=true\nspawn=3\nwait=1s\ntags=z\n";
        let v = values(&[], &[("NAME", ""), ("DEBUG", ""), ("ON", ""), ("SPAWN", ""), ("WAIT", ""), ("TAGS", "")], file);
        assert_eq!(v.text("name"), "", "a string is empty");
        assert!(!v.bool("debug") && !v.bool("on"), "a boolean is false");
        assert_eq!(v.int("spawn"), 1, "an integer has its default");
        assert_eq!(v.duration("wait"), GoDuration(10_000_000_000));
        assert_eq!(v.list("tags"), ["x", "y"]);
    }

    #[test]
    fn bad_values_are_errors_except_in_the_file_where_they_warn() {
        let error = resolve(&[], &[("SPAWN", "many")], "").unwrap_err();
        assert!(error.starts_with("could not parse \"many\" as int64 value from environment variable \"SPAWN\" for flag spawn: "), "{error}");
        let done = resolve(&[], &[], "debug=yes\nspawn=many\nwait=10\n").unwrap();
        assert!(!done.values.bool("debug"));
        assert_eq!(done.values.int("spawn"), 0);
        assert_eq!(done.values.duration("wait"), GoDuration(0));
        assert_eq!(done.warnings.len(), 3);
        assert!(done.warnings[2].contains("`wait`") && done.warnings[2].contains("line 3"), "{:?}", done.warnings);
    }

    #[test]
    fn lists_accumulate_and_the_first_value_replaces_the_default() {
        let v = values(&["--tags", "a, b,,", "--tags=c", "--raw", " a, b"], &[], "");
        assert_eq!(v.list("tags"), ["a", "b", "c"]);
        assert_eq!(v.list("raw"), [" a", " b"], "without normalisation elements stay as split");
        assert_eq!(values(&["--tags="], &[], "").list("tags"), [""; 0]);
    }

    #[test]
    fn the_first_set_variable_counts() {
        assert!(values(&[], &[("DISABLE_SUB", "true")], "").bool("no-sub"));
        assert!(!values(&[], &[("NO_SUB", "false"), ("DISABLE_SUB", "true")], "").bool("no-sub"));
    }

    #[test]
    fn paths_are_expanded() {
        let env = [("HOME", "/home/u"), ("X", "x")];
        assert_eq!(values(&["--dir", "~/a/$X/${X}$UNSET"], &env, "").text("dir"), "/home/u/a/x/x");
        assert_eq!(values(&[], &env, "").text("dir"), "", "empty stays empty");
        assert_eq!(resolve(&["--dir", "~other/a"], &env, "").unwrap_err(), "cannot expand user-specific home dir");
    }
}
