//! What bash, zsh and fish complete, as a script for each.
//!
//! The one rule: the names of processes come from the supervisor that the command line itself
//! chooses.

use std::fmt::Write;

use super::pages::{Opt, Page, pages};

/// The options that choose the supervisor.
const PLACE: [&str; 4] = ["-c", "--config", "--socket", "--owner"];
/// Prints the names of the processes, after the options that choose the supervisor.
const NAMES: &str = "2>/dev/null | tail -n +2 | cut -d' ' -f1";

const BASH_NAMES: &str = r#"
    local -a place=()
    local i name
    for ((i = 2; i < COMP_CWORD; i++)); do
        name=${COMP_WORDS[i]}
        case $name in
            PLACE)
                # bash cuts a word at its `=`.
                [[ ${COMP_WORDS[i+1]} != = ]] || i=$((i + 1))
                i=$((i + 1))
                place+=("$name" "${COMP_WORDS[i]/#\~/$HOME}")
                ;;
            -c?*) place+=("$name") ;;
        esac
    done
    childminder status "${place[@]}" NAMES
"#;

/// Finds the command after the options, and completes it.
const BASH_COMMAND: &str = r#"
    local i=2
    while ((i < COMP_CWORD)); do
        case ${COMP_WORDS[i]} in
            VALUED)
                [[ ${COMP_WORDS[i+1]} != = ]] || i=$((i + 1))
                i=$((i + 2))
                ;;
            --) i=$((i + 1)); break ;;
            =) i=$((i + 2)) ;;
            -*) i=$((i + 1)) ;;
            *) break ;;
        esac
    done
    if ((i < COMP_CWORD)); then
        ! declare -F _command_offset >/dev/null || _command_offset "$i"
        return
    elif [[ $cur != -* ]]; then
        COMPREPLY=($(compgen -c -- "$cur"))
        return
    fi
"#;

const BASH_END: &str = r#"    esac
    # Readline takes the `:` of an instance for the end of a word, so it wants only what follows.
    local typed=${COMP_LINE:0:COMP_POINT}
    typed=${typed##*[[:space:]]}
    [[ $typed == *:* ]] && cur=$typed
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
    [[ $cur == *:* && $COMP_WORDBREAKS == *:* ]] && COMPREPLY=("${COMPREPLY[@]#"${cur%:*}:"}")
    return 0
}
complete -o default -F _childminder childminder
"#;

/// The names of the options of a page that take the next word as their value.
fn valued(page: &Page) -> Vec<String> {
    let options = page.options();
    let valued = options.iter().filter(|option| option.value.is_some() && !option.is_optional);
    valued.flat_map(|option| option.names().map(str::to_owned).collect::<Vec<_>>()).collect()
}

pub(super) fn bash() -> String {
    let pages = pages();
    let commands: Vec<&str> = pages.iter().map(|page| page.name).collect();
    let names = BASH_NAMES.replace("PLACE", &PLACE.join(" | ")).replace("NAMES", NAMES);
    let mut text = format!(
        "_childminder_names() {{{names}}}\n\n_childminder() {{\n    \
         local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} words=\n    \
         if [ \"$COMP_CWORD\" = 1 ]; then\n        COMPREPLY=($(compgen -W '{} --help --version' -- \"$cur\"))\n        \
         return\n    fi\n    \
         if [[ $cur == = ]]; then\n        cur='' prev+==\n    \
         elif [[ $prev == = ]]; then\n        prev=${{COMP_WORDS[COMP_CWORD-2]}}=\n    fi\n    \
         case \"${{COMP_WORDS[1]}} $prev\" in\n",
        commands.join(" ")
    );
    // The options of all pages with their values.
    let mut values: Vec<(String, String)> = Vec::new();
    for page in &pages {
        for option in page.options() {
            let words = match (option.is_path(), option.values().join(" ")) {
                (true, _) => "-f".to_owned(),
                (false, words) if !words.is_empty() => format!("-W '{words}'"),
                (false, _) => continue,
            };
            for name in option.names() {
                let mut key = format!("'{} {name}='", page.name);
                if !option.is_optional {
                    key += &format!(" | '{} {name}'", page.name);
                }
                match values.iter_mut().find(|(_, known)| *known == words) {
                    Some((keys, _)) => *keys += &format!(" | {key}"),
                    None => values.push((key, words.clone())),
                }
            }
        }
    }
    for (keys, words) in values {
        // Writing to a string does not fail.
        let _ = writeln!(text, "    {keys})\n        COMPREPLY=($(compgen {words} -- \"$cur\")); return ;;");
    }
    text += "    esac\n    case \"${COMP_WORDS[1]}\" in\n";
    for page in &pages {
        let options: Vec<String> =
            page.options().iter().flat_map(|option| option.names().map(str::to_owned).collect::<Vec<_>>()).collect();
        let names = if page.takes_names() { " $(_childminder_names)" } else { "" };
        let shells = if page.name == "completions" { " bash zsh fish" } else { "" };
        let _ = writeln!(text, "    {})\n        words=\"{}{shells}{names}\"", page.name, options.join(" "));
        if page.takes_a_command() {
            text += BASH_COMMAND.replace("VALUED", &valued(page).join(" | ")).trim_start_matches('\n');
        }
        text += "        ;;\n";
    }
    text + BASH_END
}

const ZSH_NAMES: &str = r#"#compdef childminder

_childminder_names() {
    local -a names place
    local i
    for ((i = 2; i < CURRENT; i++)); do
        case $words[i] in
            PLACE)
                place+=("$words[i]" "${(Q)${words[i+1]/#\~/$HOME}}")
                i=$((i + 1))
                ;;
            ATTACHED) place+=("${(Q)words[i]}") ;;
        esac
    done
    names=(${(f)"$(childminder status "${place[@]}" NAMES)"})
    names=("${(@)names//:/\\:}")
    _describe 'process' names
}

"#;

/// The same options with their value behind a `=`, or behind the letter.
fn attached() -> String {
    let attached = PLACE.map(|name| if name.starts_with("--") { format!("{name}=*") } else { format!("{name}?*") });
    attached.join(" | ")
}

fn zsh_option(option: &Opt<'_>, text: &mut String) {
    let quoted = |text: &str| text.replace('\'', "'\\''").replace('[', "\\[").replace(']', "\\]").replace(':', "\\:");
    let about = quoted(&option.text);
    let values = option.values();
    let action = match option.is_path() {
        true => "_files".to_owned(),
        false if values.is_empty() => String::new(),
        false => format!("({})", values.join(" ")),
    };
    for name in option.names() {
        let value = match (option.value, option.is_optional) {
            (None, _) => String::new(),
            (Some(value), false) => format!(":{value}:{action}"),
            (Some(value), true) => format!("::{value}:{action}"),
        };
        let joins = match (option.value, option.is_optional) {
            (Some(_), true) => "=-",
            (Some(_), false) if name.starts_with("--") => "=",
            _ => "",
        };
        let _ = writeln!(text, "            '{name}{joins}[{about}]{value}' \\");
    }
}

pub(super) fn zsh() -> String {
    let quoted = |text: &str| text.replace('\'', "'\\''").replace(':', "\\:");
    let pages = pages();
    let names = ZSH_NAMES.replace("PLACE", &PLACE.join(" | "));
    let mut text = names.replace("ATTACHED", &attached()).replace("NAMES", NAMES);
    // `commands` is a variable of zsh itself.
    text += "_childminder() {\n    local -a pages\n    pages=(\n";
    for page in &pages {
        let _ = writeln!(text, "        '{}:{}'", page.name, quoted(&page.summary()));
    }
    text += "    )\n    if (( CURRENT == 2 )); then\n        _describe 'command' pages\n        return\n    fi\n    \
             local command=$words[2]\n    shift words\n    (( CURRENT-- ))\n    case $command in\n";
    for page in &pages {
        let _ = writeln!(text, "    {})\n        _arguments \\", page.name);
        page.options().iter().for_each(|option| zsh_option(option, &mut text));
        let rest = match page.name {
            "completions" => "'1:shell:(bash zsh fish)'",
            _ if page.takes_a_command() => "'(-)*::command:_normal'",
            _ if page.takes_names() => "'*:process:_childminder_names'",
            _ => "",
        };
        let _ = writeln!(text, "            {rest}\n        ;;");
    }
    // As a file of $fpath it is called, and in a startup file it is read.
    text + "    esac\n}\n\nif [[ $funcstack[1] == _childminder ]]; then\n    _childminder \"$@\"\nelse\n    \
            compdef _childminder childminder\nfi\n"
}

const FISH_FUNCTIONS: &str = r#"function __childminder_is
    set -l words (commandline -opc)
    test (count $words) -ge 2; and test $words[2] = $argv[1]
end

function __childminder_names
    set -l place
    set -l before
    for word in (commandline -opc)
        switch $before
            case PLACE
                set -a place $before $word
                set before
                continue
        end
        switch $word
            case ATTACHED
                set -a place $word
        end
        set before $word
    end
    childminder status $place NAMES
end

complete -c childminder -f
"#;

pub(super) fn fish() -> String {
    let quoted = |text: &str| text.replace('\\', "\\\\").replace('\'', "\\'");
    let attached = attached().replace(" | ", "' '");
    let functions = FISH_FUNCTIONS.replace("PLACE", &PLACE.join(" "));
    let mut text = functions.replace("ATTACHED", &format!("'{attached}'")).replace("NAMES", NAMES);
    for page in &pages() {
        let (name, summary) = (page.name, quoted(&page.summary()));
        let _ = writeln!(text, "complete -c childminder -n __fish_use_subcommand -a {name} -d '{summary}'");
        let mut add = |what: &str| {
            let _ = writeln!(text, "complete -c childminder -n '__childminder_is {name}'{what}");
        };
        for option in page.options() {
            let short = option.short.map(|short| format!(" -s {}", short.trim_start_matches('-'))).unwrap_or_default();
            let values = option.values().join(" ");
            let words = if values.is_empty() { String::new() } else { format!(" -a '{values}'") };
            let value = match (option.is_path(), option.value) {
                (true, _) => " -r -F",
                (false, Some(_)) if !option.is_optional => " -x",
                _ => "",
            };
            let (long, about) = (option.long.trim_start_matches('-'), quoted(&option.text));
            add(&format!("{short} -l {long}{value}{words} -d '{about}'"));
        }
        if page.takes_names() {
            add(" -a '(__childminder_names)'");
        }
        if page.takes_a_command() {
            add(&format!(" -x -a '(__fish_complete_subcommand --fcs-skip=2 {})'", valued(page).join(" ")));
        }
        if name == "completions" {
            add(" -a 'bash zsh fish'");
        }
    }
    text
}
