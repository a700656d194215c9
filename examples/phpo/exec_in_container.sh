export CURRENT_DIR=$PWD
echo "segment $1"
python3 train.py input.json input_ds.json output.json
tar czf $CURRENT_DIR/metrics.tgz metrics/*
rm -rf metrics
ls $CURRENT_DIR
