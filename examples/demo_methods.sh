# Sourced by the train.sh of the methods that begin with a trained model; `method` is the folder of the one that is meant.
# With flags, the trainer with these, and no more. Without, the parts of the method's offline demo are set up.
case $method in
depth2img) script=$root/examples/$method/train_depth.py ;;
*) script=$root/examples/$method/train_$method.py ;;
esac
[ "$#" -eq 0 ] || exec "$python" "$script" "$@" # in place of the shell, so that signals reach it
base=$root/output/demo/run
demo=$root/output/demo_$method
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # so small a network is faster on one thread

prepare_demo() { # $2 pictures of the kind $1, and the model to begin with
    if [ -f "$base/model_index.json" ]; then
        echo "1/4 The demo's model is there: $base"
    else
        echo "1/4 The demo's model, to begin with, is not there; training it takes 8 to 14 minutes on 2 CPU cores"
        sh "$root/examples/stable_diffusion/train.sh"
    fi
    echo "2/4 Pictures to learn from: $demo/data"
    "$python" "$root/tools/make_demo_data.py" --kind "$1" --num_images "$2" --output_path "$demo/data"
}

prepare_new() { # $2 pictures of the kind $1 that are not among those to learn from
    "$python" "$root/tools/make_demo_data.py" --kind "$1" --num_images "$2" --seed 1 --output_path "$demo/new"
}

train_demo() { # with the method's recipe, and with these flags
    echo "3/4 Training: $demo/run"
    "$python" "$script" --config "$root/configs/$method/demo.yaml" --pretrained_model_name_or_path "$base" \
        --output_dir "$demo/run" "$@"
}

draw_demo() { # these prompts, from the same noise
    echo "4/4 Drawing before and after"
    draw_one "$demo/before.png" "$base" none "$@"
    if [ "$method" = lora ]; then
        draw_one "$demo/after.png" "$base" "$demo/run/run.safetensors" "$@"
        echo "LoRA:     $demo/run/run.safetensors"
    else
        draw_one "$demo/after.png" "$demo/run" none "$@"
        echo "Pipeline: $demo/run"
    fi
    echo "Before:   $demo/before.png"
    echo "After:    $demo/after.png"
    echo "Previews: $demo/run/previews/"
}

draw_one() { # to the file $1, with the pipeline $2 and the LoRA $3, these prompts
    file=$1 pipeline=$2 lora=$3
    shift 3
    "$python" "$root/examples/stable_diffusion/eval.py" --pipeline "$pipeline" --lora "$lora" --output "$file" \
        --guidance_scale 3 --num_inference_steps 30 --prompt "$@"
}

draw_after() { # what the flags name, and beside it what is drawn after it
    echo "4/4 Drawing after pictures that were not learned from"
    "$python" "$root/examples/stable_diffusion/eval.py" --output "$demo/grid.png" \
        --guidance_scale 3 --num_inference_steps 30 "$@"
    echo "Trained:  $demo/run"
    echo "Grid:     $demo/grid.png"
    echo "Previews: $demo/run/previews/"
}
