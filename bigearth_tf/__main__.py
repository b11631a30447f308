"""`python -m bigearth_tf` is the command line."""

from bigearth_tf.cli.main import main

if __name__ == "__main__":
    main()
