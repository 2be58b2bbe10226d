# Sourced by the multi-device scripts: splits "$@" at the first -- into launch options and trainer flags, and starts.
launch=$(grep -v '^#' "$root/configs/launch/$options.args" | tr '\n' ' ')
for word in "$@"; do
    [ "$word" = -- ] || continue
    while [ "$1" != -- ]; do
        launch="$launch $1"
        shift
    done
    shift
    break
done
asked=$#
[ "$asked" -gt 0 ] || . "$root/examples/stable_diffusion/demo.sh"
# shellcheck disable=SC2086  the options are words
set -- -m ppsd.launch $launch "$root/examples/stable_diffusion/train_txt2img_laion400m_trainer.py" "$@"
[ "$asked" -eq 0 ] || exec "$python" "$@" # in place of the shell, so that signals reach it
"$python" "$@"
draw_demo
