# Sourced by the training scripts when they get no flags: makes the offline demo's data once and sets the flags.
demo=$root/output/demo
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # so small a network is faster on one thread
if [ ! -f "$demo/data/filelist/demo.filelist.list" ]; then
    echo "1/3 Demo images and part files: $demo/data"
    "$python" "$root/tools/make_demo_data.py" --output_path "$demo/images"
    "$python" "$root/tools/create_pretraining_data.py" --input_path "$demo/images/demo.jsonl" \
        --output_path "$demo/data" --output_name demo --per_part_file_num 500 --num_workers 2
fi
set -- --config "$root/configs/stable_diffusion/demo.yaml" \
    --pretrained_model_name_or_path "$root/examples/stable_diffusion/tiny_pipeline" \
    --unet_name_or_path "$root/configs/unet/tiny.json" \
    --file_list "$demo/data/filelist/demo.filelist.list" --output_dir "$demo/run"
echo "2/3 Training a randomly initialised UNet: $demo/run"

draw_demo() {
    echo "3/3 Drawing from prompts with the trained pipeline"
    "$python" "$root/examples/stable_diffusion/eval.py" --pipeline "$demo/run" --output "$demo/grid.png" \
        --guidance_scale 3 --num_inference_steps 30 --prompt \
        "a red circle on a blue background" "a blue circle on a red background" \
        "a yellow square on a green background" "a green square on a yellow background" \
        "a white triangle on a black background" "a black triangle on a white background"
    echo "Pipeline: $demo/run"
    echo "Grid:     $demo/grid.png"
    echo "Previews: $demo/run/previews/"
}
