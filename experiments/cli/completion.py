"""``source <(lantern completion bash)``: the shell completes commands, choices of groups and keys."""

from __future__ import annotations

from collections.abc import Iterable

from lantern.config.groups import GROUPS, choices
from lantern.errors import UserError

# Bash splits words at "="; what it is given back is what belongs behind the last one.
BASH = """_lantern() {
    local line=${COMP_LINE:0:COMP_POINT} word before
    word=${line##* } before=${line% *}
    if [[ $before != *" "* ]]; then
        COMPREPLY=($(compgen -W "COMMANDS" -- "$word"))
    elif [[ $before =~ ^[^\\ ]+\\ (run|plan)(\\ |$) ]]; then
        COMPREPLY=($(compgen -W "SETTINGS" -- "$word"))
        [[ $word == *=* ]] && COMPREPLY=("${COMPREPLY[@]#"${word%%=*}="}")
        [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace
    else
        COMPREPLY=($(compgen -f -- "$word"))
    fi
}
complete -F _lantern lantern
"""
ZSH = """#compdef lantern
_lantern() {
    if (( CURRENT == 2 )); then
        compadd -- COMMANDS
    elif [[ $words[2] == (run|plan) ]]; then
        compadd -S '' -- SETTINGS
    else
        _files
    fi
}
compdef _lantern lantern
"""
FISH = """complete -c lantern -f -n __fish_use_subcommand -a "COMMANDS"
complete -c lantern -f -n "__fish_seen_subcommand_from run plan" -a "SETTINGS"
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def script(shell: str, commands: Iterable[str]) -> str:
    """What *shell* reads to complete ``lantern`` and these *commands*."""
    from lantern.config.overrides import backbone_options, keys
    from lantern.config.schema import RunConfig

    if shell not in SCRIPTS:
        raise UserError(f"lantern completion {shell}".rstrip() + f": choose the shell: {', '.join(SCRIPTS)}")
    names = [f"{key}=" for key in (*keys(RunConfig), *(f"backbone.{option}" for option in backbone_options()))]
    settings = [f"{group}={choice}" for group in GROUPS for choice in choices(group)] + sorted(set(names))
    return SCRIPTS[shell].replace("COMMANDS", " ".join(commands)).replace("SETTINGS", " ".join(settings))
