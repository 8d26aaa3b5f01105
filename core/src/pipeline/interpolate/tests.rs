//! The tables of pipeline §3.3 and §3.4.

use super::*;

fn env(name: &str) -> Option<String> {
    let value = match name {
        "N" => "north",
        "N2" => "n-two",
        "E" => "",
        "P" => "to-$N",
        "H" => "deadbeef0123",
        "M" => "say why",
        "A_1" => "x1",
        "É" => "acute",
        "U" => "héllo",
        _ => return None,
    };
    Some(value.to_owned())
}

fn run(text: &str) -> Result<String, String> {
    interpolate(text, &env).map_err(|e| e.to_string())
}

#[test]
fn cases() {
    let cases: &[(u32, &str, Result<&str, &str>)] = &[
        (1, r####"plain text, 100%"####, Ok(r####"plain text, 100%"####)),
        (2, r####"$N"####, Ok(r####"north"####)),
        (3, r####"${N}"####, Ok(r####"north"####)),
        (4, r####"$N$N"####, Ok(r####"northnorth"####)),
        (5, r####"pre-${N}-post"####, Ok(r####"pre-north-post"####)),
        (6, r####"$N.log"####, Ok(r####"north.log"####)),
        (7, r####"$N-x"####, Ok(r####"north-x"####)),
        (8, r####"$N_2"####, Ok(r####""####)),
        (9, r####"${N}_2"####, Ok(r####"north_2"####)),
        (10, r####"$N2"####, Ok(r####"n-two"####)),
        (11, r####"$A_1"####, Ok(r####"x1"####)),
        (12, r####"$n"####, Ok(r####""####)),
        (13, r####"$É"####, Ok(r####"acute"####)),
        (14, r####"$NÉ"####, Ok(r####""####)),
        (15, r####"$X"####, Ok(r####""####)),
        (16, r####"${X}"####, Ok(r####""####)),
        (17, r####"$E"####, Ok(r####""####)),
        (18, r####"[$E]"####, Ok(r####"[]"####)),
        (19, r####"$P"####, Ok(r####"to-$N"####)),
        (20, r####"$"####, Ok(r####"$"####)),
        (21, r####"cost: 5$"####, Ok(r####"cost: 5$"####)),
        (22, r####"$ N"####, Ok(r####"$ N"####)),
        (23, r####"$5.00"####, Ok(r####"$5.00"####)),
        (24, r####"$1"####, Ok(r####"$1"####)),
        (25, r####"$_N"####, Ok(r####"$_N"####)),
        (26, r####"$?"####, Ok(r####"$?"####)),
        (27, r####"$'q'"####, Ok(r####"$'q'"####)),
        (28, r####"$"q""####, Ok(r####"$"q""####)),
        (29, r####"/end$/"####, Ok(r####"/end$/"####)),
        (30, r####"^[^$]+$"####, Ok(r####"^[^$]+$"####)),
        (31, r####"$(date)"####, Ok(r####"$(date)"####)),
        (32, r####"$(echo $N)"####, Ok(r####"$(echo north)"####)),
        (33, r####"`echo $N`"####, Ok(r####"`echo north`"####)),
        (34, r####"'$N' "$N""####, Ok(r####"'north' "north""####)),
        (35, r####"{$N}"####, Ok(r####"{north}"####)),
        (36, r####"${X:-$(pwd)}"####, Ok(r####"$(pwd)"####)),
        (37, r####"$$"####, Ok(r####"$"####)),
        (38, r####"$$N"####, Ok(r####"$N"####)),
        (39, r####"\$N"####, Ok(r####"$N"####)),
        (40, r####"$${N}"####, Ok(r####"${N}"####)),
        (41, r####"\${N}"####, Ok(r####"${N}"####)),
        (42, r####"$$$N"####, Ok(r####"$north"####)),
        (43, r####"$$$$N"####, Ok(r####"$$N"####)),
        (44, r####"\$$N"####, Ok(r####"$north"####)),
        (45, r####"\\$N"####, Ok(r####"\\north"####)),
        (46, r####"\\\$N"####, Ok(r####"\\$N"####)),
        (47, r####"\\"####, Ok(r####"\\"####)),
        (48, r####"\"####, Ok(r####"\"####)),
        (49, r####"$$(date)"####, Ok(r####"$(date)"####)),
        (50, r####"$$5"####, Ok(r####"$5"####)),
        (51, r####"$${bad op}"####, Ok(r####"${bad op}"####)),
        (52, r####"$${X:-$N}"####, Ok(r####"${X:-north}"####)),
        (53, r####"$${X:-$$N}"####, Ok(r####"${X:-$N}"####)),
        (54, r####"${N-d}"####, Ok(r####"north"####)),
        (55, r####"${X-d}"####, Ok(r####"d"####)),
        (56, r####"${E-d}"####, Ok(r####""####)),
        (57, r####"${N:-d}"####, Ok(r####"north"####)),
        (58, r####"${X:-d}"####, Ok(r####"d"####)),
        (59, r####"${E:-d}"####, Ok(r####"d"####)),
        (60, r####"${X:- d }"####, Ok(r####" d "####)),
        (61, r####"${X:--1}"####, Ok(r####"-1"####)),
        (62, r####"${N:-1}"####, Ok(r####"north"####)),
        (63, r####"${X:-$N}"####, Ok(r####"north"####)),
        (64, r####"${X:-${Y:-${N}}}"####, Ok(r####"north"####)),
        (65, r####"${X:-a ${N} b}"####, Ok(r####"a north b"####)),
        (66, r####"${X:-{a}}"####, Ok(r####"{a}"####)),
        (67, r####"${X:-a}b}"####, Ok(r####"ab}"####)),
        (68, r####"${X:-a\}b}"####, Ok(r####"a\b}"####)),
        (69, r####"${X:-'a}'}"####, Ok(r####"'a'}"####)),
        (70, r####"${X:-$}"####, Ok(r####"$"####)),
        (71, r####"${X:-$$}"####, Ok(r####"$"####)),
        (72, r####"${X:-\$N}"####, Ok(r####"$N"####)),
        (73, r####"${X:-\\}"####, Ok(r####"\\"####)),
        (74, r####"${N?msg}"####, Ok(r####"north"####)),
        (75, r####"${E?msg}"####, Ok(r####""####)),
        (76, r####"${X?}"####, Err(r####"$X: not set"####)),
        (77, r####"${X?msg}"####, Err(r####"$X: msg"####)),
        (78, r####"${X?$M}"####, Err(r####"$X: say why"####)),
        (79, r####"${X?a b: c}"####, Err(r####"$X: a b: c"####)),
        (80, r####"${X?${Y?deep}}"####, Err(r####"$Y: deep"####)),
        (81, r####"${H:0}"####, Ok(r####"deadbeef0123"####)),
        (82, r####"${H:4}"####, Ok(r####"beef0123"####)),
        (83, r####"${H:4:4}"####, Ok(r####"beef"####)),
        (84, r####"${H: -4}"####, Ok(r####"0123"####)),
        (85, r####"${H: -4:2}"####, Ok(r####"01"####)),
        (86, r####"${H:2:-2}"####, Ok(r####"adbeef01"####)),
        (87, r####"${H:99}"####, Ok(r####""####)),
        (88, r####"${H:4:99}"####, Ok(r####"beef0123"####)),
        (89, r####"${H: -99}"####, Ok(r####"deadbeef0123"####)),
        (90, r####"${H: -99:3}"####, Ok(r####"dea"####)),
        (91, r####"${H:8:-8}"####, Ok(r####""####)),
        (92, r####"${H:+2}"####, Ok(r####"adbeef0123"####)),
        (93, r####"${H: 2 : 3 }"####, Ok(r####"adb"####)),
        (94, r####"${X:0:7}"####, Ok(r####""####)),
    ];
    for (number, text, expected) in cases {
        assert_eq!(run(text).as_deref().map_err(String::as_str), *expected, "case {number}: {text}");
    }
}

#[test]
fn a_substring_counts_bytes() {
    assert_eq!(run("${U:0:2}").unwrap(), "h\u{fffd}");
    assert_eq!(run("${U:0:3}").unwrap(), "hé");
    assert_eq!(run("${H:4:9223372036854775807}").unwrap(), "beef0123");
}

#[test]
fn errors() {
    for (texts, expected) in [
        (&["${"][..], "Expected identifier to start with a letter, got \u{fffd}"),
        (&["${1}"], "Expected identifier to start with a letter, got 1"),
        (&["${_A}"], "Expected identifier to start with a letter, got _"),
        (&["${}"], "Expected identifier to start with a letter, got }"),
        (&["${ A}"], "Expected identifier to start with a letter, got  "),
        (&["${A"], "Expected an operator, got \u{fffd}"),
        (&["${A }"], "Expected an operator, got  "),
        (&["${A+x}"], "Expected an operator, got +"),
        (&["${A:-x", "${A-", "${A?"], "Expected brace expansion to end with }, got \u{fffd}"),
        (&["${A:x}"], "Unable to parse offset: strconv.Atoi: parsing \"x\": invalid syntax"),
        (&["${A:}", "${A::3}"], "Unable to parse offset: strconv.Atoi: parsing \"\": invalid syntax"),
        (&["${A:+m}"], "Unable to parse offset: strconv.Atoi: parsing \"+m\": invalid syntax"),
        (&["${A:1:x}"], "Unable to parse length: strconv.Atoi: parsing \"x\": invalid syntax"),
        (&["${A:1:}", "${A:1"], "Unable to parse length: strconv.Atoi: parsing \"\": invalid syntax"),
        (&["${A:1:2:3}"], "Unable to parse length: strconv.Atoi: parsing \"2:3\": invalid syntax"),
        (&["${A:99999999999999999999}"], "Unable to parse offset: strconv.Atoi: parsing \"99999999999999999999\": value out of range"),
    ] {
        for text in texts {
            assert_eq!(run(text).unwrap_err(), expected, "{text}");
        }
    }
}

#[test]
fn a_syntax_error_counts_also_where_the_operand_is_not_needed() {
    assert!(run("${N:-${}}").is_err());
    assert_eq!(run("${N:-${X?no}}").unwrap(), "north");
}
